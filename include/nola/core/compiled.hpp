// Where nola's code is compiled: in every unit that includes it, or once in the library nola::compiled.
#pragma once

// Linking nola::compiled defines NOLA_COMPILED, and headers then only declare what the library holds:
// templates for float and double, and whatever is no template. The library's own units define NOLA_COMPILING
// as well. Without the two, each unit compiles what it uses.
//   NOLA_DEFINITIONS_HERE           defined where a header is to include its definitions
//   NOLA_DEFINITION                 stands before such a definition: inline, or nothing in the library
//   NOLA_COMPILED_TEMPLATE(class X<float>);   at the end of a header: an instance that the library holds
#ifndef NOLA_COMPILED
#define NOLA_DEFINITIONS_HERE
#define NOLA_DEFINITION inline
#define NOLA_COMPILED_TEMPLATE(...) static_assert(true)
#elif defined(NOLA_COMPILING)
#define NOLA_DEFINITIONS_HERE
#define NOLA_DEFINITION
#define NOLA_COMPILED_TEMPLATE(...) template __VA_ARGS__
#else
#define NOLA_COMPILED_TEMPLATE(...) extern template __VA_ARGS__
#endif
