// SPDX-License-Identifier: Apache-2.0
// Called by transfer.py: moves random files to and from a running quantd as quantctl does, and measures in the same
// rounds what the machine can do: SHA-256 in one thread, and the disk (write with one fsync at the end; a read from the
// page cache, where the files stay).
//
// Before each line everything is written back and memory is made ready (Settle): without that the first line that
// writes decides what the others find.
//
//   transfer_bench SERVER FOLDER MEBIBYTES FILES ROUNDS
//
// Prints one JSON object of arrays, MB/s (10^6 bytes) per round. FOLDER should be on the disk of quantd's data folder.
#include "common/transfer/transfer.h"

#include <fcntl.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/support/channel_arguments.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "common/digest.h"
#include "common/unique_fd.h"

namespace quant {
namespace {

namespace fs = std::filesystem;

void WriteFile(const fs::path& path, const std::string& bytes) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600));
  CHECK(fd.valid()) << path;
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t n = ::write(fd.get(), bytes.data() + at, std::min(bytes.size() - at, size_t{1} << 20));
    CHECK_GT(n, 0) << path;
    at += static_cast<size_t>(n);
  }
  CHECK_EQ(::fsync(fd.get()), 0);
}

// Gives every line the same start: nothing left to write back from the line before, and free memory that was page cache
// a moment ago. On a virtual machine whose host takes free memory back, a page that was not used for some seconds costs
// a fault in the host: write() alone then does 270 MB/s and not 2,500, which one line would pay and the next would not.
void Settle(const fs::path& folder, size_t bytes) {
  ::sync();
  const std::string piece(1 << 20, 'w');
  const fs::path path = folder / "settle";
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600));
  CHECK(fd.valid()) << path;
  fs::remove(path);  // so that little of it goes to the disk
  for (size_t at = 0; at < bytes; at += piece.size()) CHECK_GT(::write(fd.get(), piece.data(), piece.size()), 0);
}

void Run(const std::string& server, const fs::path& folder, size_t mebibytes, size_t count, int rounds) {
  std::map<std::string, std::vector<std::string>> results;
  const size_t total = mebibytes << 20;
  const auto measure = [&](const char* name, const std::function<void()>& work) {
    Settle(folder, 3 * total);  // what a line fills: the server's copy, the client's, and buffers
    const absl::Time start = absl::Now();
    work();
    results[name].push_back(absl::StrCat(
        static_cast<int64_t>(static_cast<double>(total) / 1e6 / absl::ToDoubleSeconds(absl::Now() - start))));
  };
  grpc::ChannelArguments args;
  TuneChannelForBlobs(args);
  auto channel = grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), args);
  BlobUploader up(channel, {});
  BlobDownloader down(channel, {});
  std::mt19937_64 random(1);
  std::string bytes(total, '\0');
  for (int round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < bytes.size(); i += 4096) {  // another content each round
      const uint64_t word = random();
      bytes.replace(i, sizeof(word), reinterpret_cast<const char*>(&word), sizeof(word));
    }
    measure("sha256", [&] { Sha256Hex(bytes); });
    const fs::path whole = folder / "whole";
    measure("disk_write", [&] { WriteFile(whole, bytes); });
    measure("disk_read", [&] {
      std::string piece(1 << 20, '\0');
      const UniqueFd fd(::open(whole.c_str(), O_RDONLY));
      while (::read(fd.get(), piece.data(), piece.size()) > 0) {
      }
    });
    std::vector<LocalFile> one = {{whole, *DigestFile(whole)}};
    std::vector<LocalFile> many;
    for (size_t i = 0; i < count; ++i) {
      // Shifted, so that these are other blobs than the whole.
      const fs::path path = folder / absl::StrCat("part", i);
      std::string part = bytes.substr(i * (total / count), total / count);
      part[0] ^= 1;
      WriteFile(path, part);
      many.push_back({path, *DigestFile(path)});
    }
    const auto ok = [](const absl::Status& status) { CHECK(status.ok()) << status; };
    measure("upload_one", [&] { ok(up.UploadMissing(one)); });
    measure("upload_many", [&] { ok(up.UploadMissing(many)); });
    measure("download_one", [&] { ok(down.Download(one[0].digest, folder / "copy")); });
    measure("download_many", [&] {
      std::vector<LocalFile> copies;
      for (size_t i = 0; i < count; ++i) copies.push_back({folder / absl::StrCat("copy", i), many[i].digest});
      ok(down.DownloadAll(copies));
    });
    for (const auto& entry : fs::directory_iterator(folder)) fs::remove(entry.path());
  }
  std::vector<std::string> lines;
  for (const auto& [name, values] : results) {
    lines.push_back(absl::StrCat("\"", name, "\": [", absl::StrJoin(values, ", "), "]"));
  }
  std::printf("{%s}\n", absl::StrJoin(lines, ", ").c_str());
}

}  // namespace
}  // namespace quant

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fputs("usage: transfer_bench SERVER FOLDER MEBIBYTES FILES ROUNDS\n", stderr);
    return 2;
  }
  quant::KeepMemoryForMessages();  // as quantctl and quantd
  quant::Run(argv[1], argv[2], std::strtoul(argv[3], nullptr, 10), std::strtoul(argv[4], nullptr, 10),
             std::atoi(argv[5]));
  return 0;
}
