#define NOLA_TEMPLATE_transformers template
#include "nola/nola.hpp"
