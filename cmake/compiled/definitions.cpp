// What is no template.
#define NOLA_COMPILING_DEFINITIONS
#include "nola/nola.hpp"
#ifdef NOLA_COMPILED_IO
#include "nola/io.hpp"
#endif
