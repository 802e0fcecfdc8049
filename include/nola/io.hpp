// The component nola::io: everything that reads or writes files. Needs nlohmann-json and a POSIX system.
#pragma once

#include "nola/io/adapters/adapter_file.hpp"
#include "nola/io/adapters/frame_file.hpp"
#include "nola/io/adapters/load_adapters.hpp"
#include "nola/io/adapters/save_adapters.hpp"
#include "nola/io/checkpoint.hpp"
#include "nola/io/file/atomic_file.hpp"
#include "nola/io/file/mapped_file.hpp"
#include "nola/io/load_target.hpp"
#include "nola/io/peft/peft_export.hpp"
#include "nola/io/peft/peft_gpt2.hpp"
#include "nola/io/peft/peft_import.hpp"
#include "nola/io/safetensors/safetensors.hpp"
#include "nola/io/safetensors/safetensors_writer.hpp"
#include "nola/io/weight_file.hpp"
