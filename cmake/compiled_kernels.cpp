#define NOLA_KERNELS_TEMPLATE template
#include "compiled_kernels.hpp"
