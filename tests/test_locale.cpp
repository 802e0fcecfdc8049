// Runs a whole test program as on a desktop that groups digits and has a decimal comma, if NOLA_TEST_LOCALE
// is "grouping": files are the same in every locale.
#include <clocale>
#include <cstdlib>
#include <locale>
#include <string>
#include <string_view>

namespace {

struct Grouping : std::numpunct<char> {
  char do_decimal_point() const override { return ','; }
  char do_thousands_sep() const override { return '.'; }
  std::string do_grouping() const override { return "\3"; }
};

[[maybe_unused]] const bool isSet = [] {
  const char* const wanted = std::getenv("NOLA_TEST_LOCALE");
  if (wanted == nullptr || std::string_view(wanted) != "grouping") return false;
  // The stand-in needs none to be installed. C functions look at an installed one alone.
  std::locale::global(std::locale(std::locale::classic(), new Grouping));
  for (const char* name : {"ps_AF.UTF-8", "de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "pt_BR.UTF-8"}) {
    if (std::setlocale(LC_ALL, name) != nullptr) break;
  }
  return true;
}();

}  // namespace
