#define NOLA_TEMPLATE_layers template
#include "nola/nola.hpp"
