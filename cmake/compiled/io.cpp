#define NOLA_TEMPLATE_io template
#include "nola/io.hpp"
