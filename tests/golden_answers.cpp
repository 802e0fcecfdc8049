// Prints every known answer of the basis specification that this build gets wrong; the exit code is 1 if
// there is one. A check compiles it with several compilers and optimisation levels.
#include <iostream>

#include "golden.hpp"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: golden_answers FILE.json\n";
    return 2;
  }
  const golden::Json answers = golden::Read(argv[1]);
  bool right = true;
  for (const golden::Mismatches& wrong :
       {golden::Philox(answers), golden::Words(answers), golden::Entries<float>(answers),
        golden::Entries<double>(answers), golden::Offsets(answers), golden::CombinedFactors(answers),
        golden::BuiltFactors<float>(), golden::BuiltFactors<double>()}) {
    for (const std::string& line : wrong) std::cout << line << '\n';
    right = right && wrong.empty();
  }
  return right ? 0 : 1;
}
