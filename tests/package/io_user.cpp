// A user's program that needs the io component.
#if __has_include(<nola/io.hpp>)
#include <nola/io.hpp>
#endif
#include <nlohmann/json.hpp>
#include <nola/nola.hpp>

int main() { return nlohmann::json::parse("[1]").size() == 1 && nola::kVersion[0] != '\0' ? 0 : 1; }
