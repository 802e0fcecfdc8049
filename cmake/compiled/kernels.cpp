#define NOLA_TEMPLATE_kernels template
#include "nola/kernels/basis_kernels.hpp"
#include "nola/kernels/encoded_product.hpp"
#include "nola/kernels/matrix_product.hpp"
