// Prints every known answer of the basis and frame specifications that this build gets wrong, on every
// instruction set that the machine has; the exit code is 1 if there is one. A check compiles it with several
// compilers and optimisation levels.
#include <iostream>

#include "golden.hpp"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: golden_answers BASES.json FRAMES.json\n";
    return 2;
  }
  const golden::Json answers = golden::Read(argv[1]);
  const golden::Json frames = golden::Read(argv[2]);
  golden::Mismatches all;
  const auto add = [&](const golden::Mismatches& wrong) {
    all.insert(all.end(), wrong.begin(), wrong.end());
  };
  add(golden::Philox(answers));
  add(golden::Words(answers));
  add(golden::Entries<float>(answers));
  add(golden::Entries<double>(answers));
  add(golden::Offsets(answers));
  for (nola::InstructionSet set : golden::InstructionSets()) {
    add(golden::CombinedFactors(answers, set));
    add(golden::BuiltFactors<float>(set));
    add(golden::BuiltFactors<double>(set));
    add(golden::Frames(frames, set));
  }
  for (const std::string& line : all) std::cout << line << '\n';
  return all.empty() ? 0 : 1;
}
