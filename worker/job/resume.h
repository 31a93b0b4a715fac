// SPDX-License-Identifier: Apache-2.0
// ResumePoints: what a block-sequential job has finished, on disk, so that the next attempt goes on from there.
//
//   FOLDER/block-0000/model.safetensors   the results of a block: codes, scales, ..., and in the metadata what is known
//                                         of each layer
//   FOLDER/state-0001/model.safetensors   the hidden states before block 1, which need blocks 0 .. 0
//
// Every file names the run it belongs to by a fingerprint (model, data, recipe, program, instruction set): what does
// not fit is not used, and the job begins anew. A block counts once its state is durable: results first, then the
// state, then the state before is removed.
//
// Thread-compatible. One process at a time uses a folder (the job's lease sees to it).
#ifndef QUANT_WORKER_JOB_RESUME_H_
#define QUANT_WORKER_JOB_RESUME_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/quantize/language/driver.h"

namespace quant {

namespace v1 {
class Lease;
class Recipe;
}  // namespace v1

// Everything that the bytes of a resume point depend on, hashed: the digests of models and data, `recipe` as resolved,
// this program and its instruction set.
std::string ResumeFingerprint(const v1::Lease& lease, const v1::Recipe& recipe);

// The folder of resume points in a job's folder; empty where the agent gave none.
std::filesystem::path ResumeFolder(const std::filesystem::path& job);

class ResumePoints {
 public:
  // An empty `folder` keeps nothing: Save does nothing and Load finds nothing.
  ResumePoints(std::filesystem::path folder, std::string fingerprint);

  struct Point {
    int64_t next = 0;                 // block to go on with
    std::vector<BlockResult> blocks;  // results of blocks 0 .. next - 1
    Tensor state;                     // uint8: BlockDriver::state() before block `next`
  };
  // The newest complete point, or nullopt: there is none, it is of another run, or it is damaged (then it is removed).
  std::optional<Point> Load();

  // Keeps the results of block `result.block` and the state after it. RESOURCE_EXHAUSTED and others as the disk says;
  // the job may go on without a resume point.
  absl::Status Save(const BlockResult& result, std::span<const std::byte> state);

  // Removes everything: the job is done.
  void Clear();

 private:
  std::filesystem::path folder_;
  std::string fingerprint_;
};

}  // namespace quant

#endif  // QUANT_WORKER_JOB_RESUME_H_
