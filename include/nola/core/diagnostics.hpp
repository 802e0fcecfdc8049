// Readable facts about an object, for logs and reports.
#pragma once

#include <map>
#include <string>

#include "nola/core/text.hpp"

namespace nola {

namespace detail {

/// Sets a fact. Not inlined: layers have many of them, and nobody waits for one.
[[gnu::noinline]] inline void SetFact(std::map<std::string, std::string>& facts, const char* name,
                                      const TextPart& value) {
  facts[name] = Message({value});
}

}  // namespace detail

class IDiagnosticsProvider {
 public:
  virtual ~IDiagnosticsProvider() = default;

  /// Facts by name, as text: sizes, counts, norms. Keys are snake_case and stay what they are.
  virtual std::map<std::string, std::string> GetDiagnostics() const = 0;

 protected:
  IDiagnosticsProvider() = default;
  IDiagnosticsProvider(const IDiagnosticsProvider&) = default;
  IDiagnosticsProvider& operator=(const IDiagnosticsProvider&) = delete;
};

}  // namespace nola
