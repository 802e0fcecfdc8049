// A file is whole at every moment, whatever happens to the process, the disk or the directory.
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "catch.hpp"
#include "io_files.hpp"
#include "tensors.hpp"

namespace {

using nola::FileError;
using test::TemporaryDirectory;

test::Bytes Text(const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text));
  return test::Bytes(bytes.begin(), bytes.end());
}

void Save(const std::filesystem::path& path, const test::Bytes& content) {
  nola::AtomicFile file(path);
  file.Write(content);
  file.Commit();
}

std::string SaveError(const std::filesystem::path& path, const test::Bytes& content) {
  return test::ErrorOf<FileError>([&] { Save(path, content); });
}

/// A network whose coefficients are all the same number: half a save would show.
void SetAll(nola::Sequential<float>& network, int number) {
  network.SetParameters(nola::Vector<float>::Constant(network.ParameterCount(), static_cast<float>(number)));
}

std::shared_ptr<nola::Sequential<float>> Adapted() {
  auto network = test::SmallNetwork<float>();
  nola::AdaptLayers(network, nola::AdapterConfig{.targetModules = {"first", "head"}, .rank = 2});
  return network;
}

/// Memory that a process and its children share.
class SharedCounter {
 public:
  SharedCounter()
      : memory_(::mmap(nullptr, sizeof(std::atomic<int>), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                       -1, 0)) {
    if (memory_ == MAP_FAILED) throw std::runtime_error("cannot share memory");
    new (memory_) std::atomic<int>(0);
  }
  ~SharedCounter() { ::munmap(memory_, sizeof(std::atomic<int>)); }
  SharedCounter(const SharedCounter&) = delete;
  SharedCounter& operator=(const SharedCounter&) = delete;
  std::atomic<int>& operator*() const { return *static_cast<std::atomic<int>*>(memory_); }

 private:
  void* memory_;
};

/// Kills processes that save an adapter again and again, each after a random time, and opens what is left.
void KillWhileSaving(int kills) {
  const TemporaryDirectory directory;
  const std::filesystem::path path = directory / "adapter.safetensors";
  const SharedCounter completed;
  nola::RandomStream random(4);
  std::uint64_t longest = 20000;  // microseconds; finds the time that a save takes on this machine
  const auto network = Adapted();
  SetAll(*network, 0);
  SaveAdapters(*network, path);
  for (int kill = 0; kill < kills; ++kill) {
    const int before = *completed;
    const pid_t child = test::Start([&] {
      for (int number = *completed + 1;; ++number) {
        SetAll(*network, number);
        SaveAdapters(*network, path);
        *completed = number;
      }
      return 0;
    });
    std::this_thread::sleep_for(std::chrono::microseconds(random.NextBelow(longest)));
    ::kill(child, SIGKILL);
    REQUIRE(test::WaitFor(child) == -SIGKILL);
    const auto loaded = test::SmallNetwork<float>();
    LoadAdapters(*loaded, path);
    const nola::Vector<float> numbers = loaded->GetParameters();
    REQUIRE(numbers.minCoeff() == numbers.maxCoeff());
    REQUIRE(numbers[0] >= static_cast<float>(*completed));
    REQUIRE(numbers[0] <= static_cast<float>(*completed + 1));
    *completed = static_cast<int>(numbers[0]);
    longest = *completed == before ? 2 * longest : std::max<std::uint64_t>(longest / 2, 1000);
  }
  CHECK(*completed > 0);
  SaveAdapters(*network, path);
  CHECK(directory.NumFiles() == 1);  // what the killed left behind is gone
}

}  // namespace

TEST_CASE("a save replaces the file, keeps its permissions and leaves nothing beside it") {
  const TemporaryDirectory directory;
  Save(directory / "f", Text("old"));
  std::filesystem::permissions(directory / "f", std::filesystem::perms::owner_read);
  Save(directory / "f", Text("new"));
  CHECK(test::ReadFile(directory / "f") == Text("new"));
  CHECK(std::filesystem::status(directory / "f").permissions() == std::filesystem::perms::owner_read);
  CHECK(directory.NumFiles() == 1);
}

TEST_CASE("a file that was not committed never was") {
  const TemporaryDirectory directory;
  Save(directory / "f", Text("old"));
  {
    nola::AtomicFile file(directory / "f");
    file.Write(Text("half"));
    CHECK(test::ReadFile(directory / "f") == Text("old"));
  }
  CHECK(test::ReadFile(directory / "f") == Text("old"));
  CHECK(directory.NumFiles() == 1);
}

TEST_CASE("a link is followed, and only a regular file is replaced") {
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory / "elsewhere");
  Save(directory.Path() / "elsewhere" / "f", Text("old"));
  std::filesystem::create_symlink(directory.Path() / "elsewhere" / "f", directory / "link");
  Save(directory / "link", Text("new"));
  CHECK(std::filesystem::is_symlink(directory / "link"));
  CHECK(test::ReadFile(directory.Path() / "elsewhere" / "f") == Text("new"));
  CHECK(SaveError(directory / "elsewhere", Text("x")).find("not a regular file") != std::string::npos);
  CHECK(SaveError("/dev/null", Text("x")).find("not a regular file") != std::string::npos);
  CHECK(SaveError(directory / "absent/f", Text("x")).find("No such file or directory") != std::string::npos);
}

TEST_CASE("a link that leads to no file yet makes it, and a circle of links is an error") {
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory / "elsewhere");
  std::filesystem::create_symlink("second", directory / "first");
  std::filesystem::create_symlink("elsewhere/f", directory / "second");
  Save(directory / "first", Text("new"));
  CHECK(test::ReadFile(directory.Path() / "elsewhere" / "f") == Text("new"));
  CHECK(std::filesystem::is_symlink(directory / "first"));
  CHECK(std::filesystem::is_symlink(directory / "second"));
  std::filesystem::create_symlink("b", directory / "a");
  std::filesystem::create_symlink("a", directory / "b");
  CHECK(SaveError(directory / "a", Text("x")).find("symbolic links") != std::string::npos);
  std::filesystem::create_symlink("absent/f", directory / "lost");
  CHECK(SaveError(directory / "lost", Text("x")).find("No such file or directory") != std::string::npos);
}

TEST_CASE("whatever name the file system takes can be saved to") {
  const TemporaryDirectory directory;
  std::string umlauts;
  for (int i = 0; i < 127; ++i) umlauts += "\xC3\xBC";
  const std::vector<std::string> names = {std::string(248, 'n'),
                                          std::string(255, 'n'),
                                          umlauts + "n",
                                          "with a space",
                                          "with\na line",
                                          "-",
                                          "~",
                                          "...",
                                          "\xFF"};
  for (const std::string& name : names) {
    INFO(name);
    nola::CheckWritable(directory / name);
    Save(directory / name, Text("old"));
    Save(directory / name, Text(name));
    CHECK(test::ReadFile(directory / name) == Text(name));
  }
  CHECK(directory.NumFiles() == names.size());
  CHECK(SaveError(directory / std::string(256, 'n'), Text("x")).find("name too long") != std::string::npos);
}

TEST_CASE("a path as long as the system takes can be saved to") {
  const TemporaryDirectory directory;
  std::filesystem::path deep = directory.Path();
  while (deep.native().size() < 4095 - 2 - 256) deep /= std::string(250, 'd');
  deep /= std::string(4095 - 3 - deep.native().size(), 'd');
  std::filesystem::create_directories(deep);
  CHECK((deep / "f").native().size() == 4095);
  Save(deep / "f", Text("new"));
  CHECK(test::ReadFile(deep / "f") == Text("new"));
}

TEST_CASE("a relative path means what it meant when the file was opened") {
  const TemporaryDirectory directory;
  std::filesystem::create_directory(directory / "elsewhere");
  const pid_t child = test::Start([&] {
    std::filesystem::current_path(directory.Path());
    nola::AtomicFile file("f");
    file.Write(Text("new"));
    std::filesystem::current_path(directory / "elsewhere");
    file.Commit();
    return 0;
  });
  CHECK(test::WaitFor(child) == 0);
  CHECK(test::ReadFile(directory / "f") == Text("new"));
}

TEST_CASE("what cannot be saved is said before the work, and the check leaves nothing behind") {
  const TemporaryDirectory directory;
  Save(directory / "f", Text("old"));
  std::filesystem::create_directory(directory / "d");
  std::filesystem::create_symlink("loop", directory / "loop");
  const auto said = [&](const std::filesystem::path& path, const std::string& reason) {
    const auto check = test::ErrorOf<FileError>([&] { nola::CheckWritable(path); });
    INFO(check);
    CHECK(check.find(reason) != std::string::npos);
    CHECK(check == SaveError(path, Text("x")));
  };
  nola::CheckWritable(directory / "f");
  nola::CheckWritable(directory / "new");
  said(directory / "absent/f", "No such file or directory");
  said(directory / "f/f", "Not a directory");
  said(directory / "d", "not a regular file");
  said(directory / "d/", "names no file");
  said(directory / "new/", "names no file");
  said(directory / "..", "not a regular file");
  said("", "names no file");
  said(directory / std::string("f\0g", 3), "names no file");
  said(directory / "loop", "symbolic links");
  said(directory / std::string(256, 'n'), "name too long");
  said("/proc/nola", "cannot write '/proc/nola'");
  said("/dev/null", "not a regular file");
  CHECK(test::ReadFile(directory / "f") == Text("old"));
  CHECK(directory.NumFiles() == 3);
}

TEST_CASE("another user's file in a directory that is everyone's is refused before the work") {
  if (geteuid() != 0) return;  // needs two users
  const TemporaryDirectory directory;
  using std::filesystem::perms;
  std::filesystem::permissions(directory.Path(), perms::all | perms::sticky_bit);
  Save(directory / "f", Text("old"));
  const pid_t child = test::Start([&] {
    if (setuid(65534) != 0) return 2;
    const auto error = test::ErrorOf<FileError>([&] { nola::CheckWritable(directory / "f"); });
    return error.find("Operation not permitted") != std::string::npos ? 0 : 1;
  });
  CHECK(test::WaitFor(child) == 0);
}

TEST_CASE("a file beyond the allowed size is an error and leaves the old one whole") {
  const TemporaryDirectory directory;
  Save(directory / "f", Text("old"));
  rlimit limit{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &limit) == 0);
  const pid_t child = test::Start([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    limit.rlim_cur = 10000;
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
    return SaveError(directory / "f", test::Bytes(20000)).find("File too large") != std::string::npos ? 0 : 1;
  });
  CHECK(test::WaitFor(child) == 0);
  CHECK(test::ReadFile(directory / "f") == Text("old"));
  CHECK(directory.NumFiles() == 1);
}

TEST_CASE("a full disk is an error and leaves the old file whole") {
  const TemporaryDirectory directory;
  if (::mount("none", directory.Path().c_str(), "tmpfs", 0, "size=64k") != 0) {
    WARN("skipped: only root may mount a small disk");
    return;
  }
  {
    const auto network = Adapted();
    SetAll(*network, 1);
    SaveAdapters(*network, directory / "adapter");
    const test::Bytes before = test::ReadFile(directory / "adapter");
    CHECK(SaveError(directory / "large", test::Bytes(100000)).find("No space left") != std::string::npos);
    test::WriteFile(directory / "filling", test::Bytes(100000));  // up to the brim
    SetAll(*network, 2);
    CHECK(test::ErrorOf<FileError>([&] {
            SaveAdapters(*network, directory / "adapter");
          }).find("No space left") != std::string::npos);
    CHECK(test::ReadFile(directory / "adapter") == before);
    CHECK(directory.NumFiles() == 2);
  }
  CHECK(::umount(directory.Path().c_str()) == 0);
}

TEST_CASE("a directory that may not be written is an error") {
  const TemporaryDirectory directory;
  Save(directory / "f", Text("old"));
  using std::filesystem::perms;
  std::filesystem::permissions(
      directory.Path(), perms::owner_read | perms::owner_exec | perms::others_exec | perms::others_read);
  const pid_t child = test::Start([&] {
    if (geteuid() == 0 && setuid(65534) != 0) return 2;  // root may write anywhere
    return SaveError(directory / "f", Text("new")).find("Permission denied") != std::string::npos ? 0 : 1;
  });
  CHECK(test::WaitFor(child) == 0);
  CHECK(test::ReadFile(directory / "f") == Text("old"));
}

TEST_CASE("many may save to one path at once: a reader always finds a whole file") {
  const TemporaryDirectory directory;
  const std::filesystem::path path = directory / "f";
  const std::size_t size = 100000;
  Save(path, test::Bytes(size));
  std::atomic<int> running{3};
  std::vector<std::thread> writers;
  for (int writer = 0; writer < 3; ++writer) {
    writers.emplace_back([&, writer] {
      for (int i = 0; i < 20; ++i) Save(path, test::Bytes(size, static_cast<std::byte>(3 * i + writer)));
      --running;
    });
  }
  std::size_t broken = 0;
  do {
    const test::Bytes content = test::ReadFile(path);
    broken += content == test::Bytes(size, content.empty() ? std::byte{} : content[0]) ? 0U : 1U;
  } while (running > 0);
  for (std::thread& writer : writers) writer.join();
  CHECK(broken == 0);
  CHECK(directory.NumFiles() == 1);
}

TEST_CASE("what other programs left under a temporary name does not stop a save") {
  const TemporaryDirectory directory;
  std::string temporary;
  {
    const nola::AtomicFile file(directory / "f");
    temporary = std::filesystem::directory_iterator(directory.Path())->path().filename().string();
  }
  REQUIRE(temporary.ends_with(".0.tmp"));
  const std::string stem = temporary.substr(0, temporary.size() - 5);
  std::filesystem::create_directory(directory / temporary);
  std::filesystem::create_symlink("/dev/null", directory / (stem + "1.tmp"));
  test::WriteFile(directory / (stem + "2.tmp"), Text("left by one that was killed"));
  std::filesystem::permissions(directory / (stem + "2.tmp"), std::filesystem::perms::owner_read);
  Save(directory / "f", Text("new"));
  CHECK(test::ReadFile(directory / "f") == Text("new"));
  CHECK(directory.NumFiles() == 3);
}

TEST_CASE("10 kills while saving leave a whole file, no older than the last save completed") {
  KillWhileSaving(10);
}

TEST_CASE("200 kills while saving leave a whole file, no older than the last save completed", "[long]") {
  KillWhileSaving(200);
}
