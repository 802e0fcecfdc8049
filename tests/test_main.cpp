// The main function of every test: Catch2's, which version 3 has in its library.
#define CATCH_CONFIG_MAIN
#include "catch.hpp"
