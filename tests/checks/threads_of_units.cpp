// A unit of a program of two, of which one is compiled with OpenMP and one without: loops of both run on its
// threads, whichever the linker meets first.
#include <iostream>

#include "nola/kernels/parallel.hpp"

#ifdef NOLA_SECOND_UNIT
int SecondThreads() { return nola::detail::UsefulThreads(1e9); }
#else
int SecondThreads();

int main() {
  const int first = nola::detail::UsefulThreads(1e9);
  const int second = SecondThreads();
  if (first == 3 && second == 3) return 0;
  std::cout << "one unit uses " << first << " threads, the other " << second
            << ", expected 3 (OMP_NUM_THREADS)\n";
  return 1;
}
#endif
