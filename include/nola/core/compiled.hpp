// Where nola's code is compiled: in every unit that includes it, or once in the library nola::compiled.
#pragma once

// Linking nola::compiled defines NOLA_COMPILED. Headers then only declare what the library holds: functions
// that are no templates, and templates for float and double, the kernels for long double too. Without it each
// unit compiles what it uses.
//   NOLA_DEFINITIONS_HERE   defined where a header is to include its definitions
//   NOLA_DEFINITION         stands before such a definition
//   NOLA_COMPILED_TEMPLATE(part, class X<float>)   an instance that the library's unit for this part holds
//   NOLA_COMPILED_CLASS(part, X)                   the same for X<float> and X<double>
//   NOLA_ONNX_DEFINITIONS_HERE, NOLA_ONNX_DEFINITION   the same for nola::onnx, whose compiled part is a
//   library of its own: where there is one, nola::onnx defines NOLA_COMPILED_ONNX
// Each of the library's units defines NOLA_COMPILING, and NOLA_TEMPLATE_<part> as `template` for the part it
// holds; the one with NOLA_COMPILING_DEFINITIONS holds what is no template.
#ifndef NOLA_COMPILED
#define NOLA_COMPILED_TEMPLATE(part, ...) static_assert(true)
#define NOLA_COMPILED_CLASS(part, Class) static_assert(true)
#else
#ifndef NOLA_TEMPLATE_kernels
#define NOLA_TEMPLATE_kernels extern template
#endif
#ifndef NOLA_TEMPLATE_layers
#define NOLA_TEMPLATE_layers extern template
#endif
#ifndef NOLA_TEMPLATE_transformers
#define NOLA_TEMPLATE_transformers extern template
#endif
#ifndef NOLA_TEMPLATE_adapters
#define NOLA_TEMPLATE_adapters extern template
#endif
#ifndef NOLA_TEMPLATE_io
#define NOLA_TEMPLATE_io extern template
#endif
#define NOLA_COMPILED_TEMPLATE(part, ...) NOLA_TEMPLATE_##part __VA_ARGS__
#define NOLA_COMPILED_CLASS(part, Class)   \
  NOLA_TEMPLATE_##part class Class<float>; \
  NOLA_TEMPLATE_##part class Class<double>
#endif

#if !defined(NOLA_COMPILED) || defined(NOLA_COMPILING)
#define NOLA_DEFINITIONS_HERE
#endif
#ifdef NOLA_COMPILING_DEFINITIONS
#define NOLA_DEFINITION
#else
#define NOLA_DEFINITION inline
#endif

#if !defined(NOLA_COMPILED) || !defined(NOLA_COMPILED_ONNX) || defined(NOLA_COMPILING_ONNX)
#define NOLA_ONNX_DEFINITIONS_HERE
#endif
#ifdef NOLA_COMPILING_ONNX
#define NOLA_ONNX_DEFINITION
#else
#define NOLA_ONNX_DEFINITION inline
#endif
