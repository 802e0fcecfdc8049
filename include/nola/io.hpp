// The component nola::io: everything that reads or writes files. Needs nlohmann-json and a POSIX system.
#pragma once

#include "nola/io/adapter_file.hpp"
#include "nola/io/atomic_file.hpp"
#include "nola/io/checkpoint.hpp"
#include "nola/io/load_adapters.hpp"
#include "nola/io/mapped_file.hpp"
#include "nola/io/peft_export.hpp"
#include "nola/io/peft_gpt2.hpp"
#include "nola/io/peft_import.hpp"
#include "nola/io/safetensors.hpp"
#include "nola/io/safetensors_writer.hpp"
#include "nola/io/save_adapters.hpp"
#include "nola/io/weight_file.hpp"
