// A unit of a program of two, each of which includes all of nola: what a header defines twice does not link.
// The units are compiled with different flags and must agree on every bit that the specification pins.
#include <iostream>
#include <memory>
#include <vector>

#include "nola/nola.hpp"
#if __has_include("nola/io.hpp")
#include "nola/io.hpp"
#endif
#if __has_include(<onnx/onnx_pb.h>)
#include "nola/onnx.hpp"
#endif

namespace {

template <class T>
void Append(std::vector<T>& values, nola::BasisDistribution distribution) {
  const nola::BasisGenerator generator(1, 2, distribution);
  nola::FactorMatrix<T> sum(300, 3);
  nola::Vector<T> coefficients(70);
  for (nola::Index i = 0; i < 70; ++i) coefficients[i] = static_cast<T>(i - 35) / T(70);
  nola::CombineBasis<T>(generator, nola::Factor::a, coefficients, sum);
  values.insert(values.end(), sum.data(), sum.data() + sum.size());
}

template <class T>
std::vector<T> Values() {
  std::vector<T> values;
  Append(values, nola::BasisDistribution::rademacher);
  Append(values, nola::BasisDistribution::hadamard);
  return values;
}

}  // namespace

#ifdef NOLA_SECOND_UNIT
std::vector<float> SecondFloats() { return Values<float>(); }
std::vector<double> SecondDoubles() { return Values<double>(); }
#else
std::vector<float> SecondFloats();
std::vector<double> SecondDoubles();

int main() {  // NOLINT(bugprone-exception-escape): an exception fails the check, as it should
  auto base = std::make_shared<nola::DenseLayer<float> >(20, 10);
  nola::NOLAAdapter<float> adapter(base, 4, 8);
  const nola::Tensor<float> input = nola::Tensor<float>::Ones(2, 20);
  const bool startsWithoutEffect = adapter.Forward(input) == base->Infer(input);
  const bool same = Values<float>() == SecondFloats() && Values<double>() == SecondDoubles();
  if (!same) std::cout << "the units' combined factors differ\n";
  if (!startsWithoutEffect) std::cout << "a fresh adapter changed its base layer's output\n";
  return same && startsWithoutEffect ? 0 : 1;
}
#endif
