// SPDX-License-Identifier: Apache-2.0
#include "common/background_task.h"

#include <cstddef>
#include <utility>

#include "common/mutex.h"

namespace quant {
namespace {

// Fewer bytes are hashed sooner than another thread wakes up.
constexpr size_t kWorthAThread = size_t{64} << 10;

}  // namespace

struct BackgroundTask::State {
  explicit State(std::function<void()> to_do) : work(std::move(to_do)) {}

  // Does the work unless somebody has begun it.
  void RunIfWaiting() {
    {
      MutexLock lock(&mu);
      if (begun) return;
      begun = true;
    }
    work();
    MutexLock lock(&mu);
    done = true;
    changed.SignalAll();
  }

  const std::function<void()> work;
  Mutex mu;
  CondVar changed;
  bool begun ABSL_GUARDED_BY(mu) = false;
  bool done ABSL_GUARDED_BY(mu) = false;
};

BackgroundTask::BackgroundTask() = default;

BackgroundTask::BackgroundTask(ThreadPool* pool, std::function<void()> work)
    : state_(std::make_shared<State>(std::move(work))) {
  // Refused, it is left to Wait.
  static_cast<void>(pool->TryPost([state = state_] { state->RunIfWaiting(); }));
}

BackgroundTask::~BackgroundTask() { Wait(); }

BackgroundTask& BackgroundTask::operator=(BackgroundTask&& other) noexcept {
  if (this != &other) {
    Wait();
    state_ = std::move(other.state_);
  }
  return *this;
}

bool BackgroundTask::Done() const {
  if (state_ == nullptr) return true;
  MutexLock lock(&state_->mu);
  return state_->done;
}

void BackgroundTask::Wait() {
  if (state_ == nullptr) return;
  state_->RunIfWaiting();
  {
    MutexLock lock(&state_->mu);
    while (!state_->done) state_->changed.Wait(&state_->mu);
  }
  state_ = nullptr;
}

BackgroundTask UpdateBeside(ThreadPool* pool, Sha256& sha256, absl::Span<const std::string_view> pieces) {
  size_t size = 0;
  for (const std::string_view piece : pieces) size += piece.size();
  const auto update = [&sha256, pieces] {
    for (const std::string_view piece : pieces) sha256.Update(piece);
  };
  if (size >= kWorthAThread) return {pool, update};
  update();
  return {};
}

}  // namespace quant
