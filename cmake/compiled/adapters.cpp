// The adapters, and what trains them.
#define NOLA_TEMPLATE_adapters template
#include "nola/nola.hpp"
#include "nola/training/full_matrix_adam.hpp"
