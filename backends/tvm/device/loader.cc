// Runs an artifact's module on a device without Python: loader FUNCTION MODEL INPUT OUTPUT [THREADS]
//
//   FUNCTION  main    images to logits
//             codes   input codes (a camera's bytes) to logits
//             trace   images to the codes of every quantized tensor, then the logits
//   MODEL     model.so
//   INPUT     raw samples one after the other: float32 [C, H, W] each, for `codes` uint8 [H, W, C], int32 where the
//             network reads integers; of several inputs one after the other for each sample
//   OUTPUT    is written: for each sample its results one after the other, uint8 codes as [H, W, C] in the order of
//             `trace` in device.json, logits as float32
//   THREADS   how many compute, one where none is given; the codes are the same
//
// Files hold bare numbers in the machine's byte order, no header. Exit status 0, or 1 with the reason on stderr. Needs
// only headers of the apache-tvm-ffi package, and libtvm_runtime.so and libtvm_ffi.so in lib/ beside it:
//
//   g++ -std=c++17 -O2 loader.cc -I"$(tvm-ffi-config --includedir)" -I"$(tvm-ffi-config --dlpack-includedir)"
//       -Wl,--no-as-needed -Llib -ltvm_runtime -ltvm_ffi -Wl,-rpath,'$ORIGIN/lib' -o loader

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <new>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include "device.h"

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace ffi = tvm::ffi;

namespace {

struct Memory {
  void AllocData(DLTensor* tensor) {
    tensor->data = std::malloc(ffi::GetDataSize(*tensor));
    if (tensor->data == nullptr) throw std::bad_alloc();
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

#if defined(__aarch64__)
// What the kernel tells a program of its processor: right under an emulator too, where /proc/cpuinfo is the host's.
std::set<std::string> Features() {
  std::set<std::string> found;
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  if (first & (1UL << 1)) found.insert("asimd");
  if (first & (1UL << 20)) found.insert("asimddp");
  if (second & (1UL << 13)) found.insert("i8mm");
  return found;
}
#else
std::set<std::string> Features() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, 5, "flags") != 0) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    return {std::istream_iterator<std::string>(words), std::istream_iterator<std::string>()};
  }
  return {};
}
#endif

// Throws before the module is loaded: an instruction that the processor lacks ends the program without a word.
void CheckProcessor() {
  const std::set<std::string> present = Features();
  std::string lacking;
  for (const char* name : kFeatures) {
    if (!present.count(name)) lacking += (lacking.empty() ? "" : ", ") + std::string(name);
  }
  if (lacking.empty()) return;
  for (const Profile& profile : kProfiles) {
    std::istringstream words(profile.features);
    bool fits = true;
    for (std::string word; words >> word;) fits = fits && present.count(word);
    if (fits) {
      throw std::runtime_error("this module needs " + lacking + ", which this processor does not have: build with " +
                               "--device-profile " + profile.name);
    }
  }
  throw std::runtime_error("this module needs " + lacking + ", which this processor does not have");
}

std::vector<char> Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void Write(std::ofstream& file, const ffi::Tensor& tensor) {
  file.write(static_cast<const char*>(tensor.data_ptr()),
             static_cast<std::streamsize>(ffi::GetDataSize(*tensor.GetDLTensorPtr())));
}

ffi::Function Load(const std::string& path, const std::string& name) {
  // A name without a folder would be looked for in the system's library folders.
  const bool bare = path.find('/') == std::string::npos;
  const ffi::Module library = ffi::Module::LoadFromFile(bare ? "./" + path : path);
  const ffi::Module machine = library->GetFunction("vm_load_executable").value()().cast<ffi::Module>();
  constexpr int kDevice = kDLCPU, kIndex = 0, kPooled = 2;
  machine->GetFunction("vm_initialization").value()(kDevice, kIndex, kPooled);
  return machine->GetFunction(name).value();
}

// Run the modules that this thread calls on so many threads: call it once, after `Load` and before a function is called.
// Told nothing, TVM's pool takes all cores, keeps its threads on one each, and lets them wait long without sleep.
void UseThreads(int count) {
  setenv("TVM_NUM_THREADS", std::to_string(count).c_str(), 1);
  setenv("TVM_BIND_THREADS", "0", 0);
  setenv("TVM_THREAD_POOL_SPIN_COUNT", "10000", 0);
  if (count == 1) return;
  constexpr int kAnyCore = -3;
  ffi::Array<ffi::String> cores;
  for (int core = 0; core < count; ++core) cores.push_back(ffi::String(std::to_string(core)));
  ffi::Function::GetGlobalRequired("runtime.config_threadpool")(kAnyCore, count, cores);
}

ffi::Tensor MakeTensor(const Input& input) {
  const DLDataType type = input.type == "uint8"   ? DLDataType{kDLUInt, 8, 1}
                          : input.type == "int32" ? DLDataType{kDLInt, 32, 1}
                                                  : DLDataType{kDLFloat, 32, 1};
  return ffi::Tensor::FromNDAlloc(Memory(), ffi::ShapeView(input.shape.data(), input.shape.size()), type,
                                  DLDevice{kDLCPU, 0});
}

void Run(const std::string& name, const std::string& model, const std::string& in, const std::string& out,
         int threads) {
  CheckProcessor();
  std::vector<ffi::Tensor> inputs;
  size_t size = 0;
  for (const Input& input : name == "codes" ? kCodes : kInputs) {
    inputs.push_back(MakeTensor(input));
    size += ffi::GetDataSize(*inputs.back().GetDLTensorPtr());
  }
  const std::vector<ffi::AnyView> arguments(inputs.begin(), inputs.end());
  const std::vector<char> samples = Read(in);
  if (samples.empty() || samples.size() % size != 0) {
    throw std::runtime_error(in + ": " + std::to_string(samples.size()) + " bytes are no whole number of samples of " +
                             std::to_string(size) + " bytes");
  }
  const ffi::Function function = Load(model, name);
  UseThreads(threads);
  std::ofstream file(out, std::ios::binary);
  std::vector<double> times;
  for (size_t start = 0; start < samples.size(); start += size) {
    const char* bytes = samples.data() + start;
    for (const ffi::Tensor& input : inputs) {
      const size_t count = ffi::GetDataSize(*input.GetDLTensorPtr());
      std::memcpy(input.data_ptr(), bytes, count);
      bytes += count;
    }
    const auto begin = std::chrono::steady_clock::now();
    ffi::Any result;
    function.CallPacked(arguments.data(), static_cast<int32_t>(arguments.size()), &result);
    times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
    if (name == "trace") {
      for (const ffi::Any& tensor : result.cast<ffi::Array<ffi::Any>>()) Write(file, tensor.cast<ffi::Tensor>());
    } else {
      Write(file, result.cast<ffi::Tensor>());
    }
  }
  file.close();
  if (!file) throw std::runtime_error(out + ": cannot be written");
  std::sort(times.begin(), times.end());
  std::printf("samples: %zu, latency: %.3f ms (median, %d thread%s, batch 1)\n", times.size(),
              times[times.size() / 2], threads, threads == 1 ? "" : "s");
}

}  // namespace

int main(int count, char** words) {
  const std::string name = count == 5 || count == 6 ? words[1] : "";
  const int threads = count == 6 ? std::atoi(words[5]) : 1;
  if ((name != "main" && name != "codes" && name != "trace") || threads < 1 || threads > 256) {
    std::fprintf(stderr, "usage: %s main|codes|trace MODEL INPUT OUTPUT [THREADS, 1 to 256]\n", words[0]);
    return 1;
  }
  try {
    Run(name, words[2], words[3], words[4], threads);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
