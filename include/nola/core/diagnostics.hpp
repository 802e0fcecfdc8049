// Readable facts about an object, for logs and reports.
#pragma once

#include <map>
#include <string>

namespace nola {

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
