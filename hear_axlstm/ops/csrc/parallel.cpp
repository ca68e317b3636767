// Threads that wait for work.
//
// A part of a block takes about as long as starting a thread or waking one that sleeps. So each
// thread waits for its next part without sleeping for a while, yielding its core to other threads.

#include "parallel.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace {

using Part = std::function<void(Index)>;

constexpr std::chrono::microseconds AWAKE{500};

class Worker {
public:
    explicit Worker(Index index) : thread_([=] { serve(index); }) { thread_.detach(); }

    void begin(const Part& part) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            part_.store(&part, std::memory_order_release);
        }
        wake_.notify_one();
    }

    void wait() const {
        while (part_.load(std::memory_order_acquire)) std::this_thread::yield();
    }

private:
    void serve(Index index) {
        for (;;) {
            (*next())(index);
            part_.store(nullptr, std::memory_order_release);
        }
    }

    const Part* next() {
        const auto end = std::chrono::steady_clock::now() + AWAKE;
        while (std::chrono::steady_clock::now() < end) {
            if (const Part* part = part_.load(std::memory_order_acquire)) return part;
            std::this_thread::yield();
        }
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [this] { return part_.load(std::memory_order_acquire); });
        return part_.load(std::memory_order_acquire);
    }

    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<const Part*> part_{nullptr};
    std::thread thread_;  // last, as it uses the others
};

// The workers of a process; used by one thread at a time.
class Team {
public:
    explicit Team(long process) : process(process) {}

    // False if another thread uses the team.
    bool share(Index parts, const Part& part) {
        const std::unique_lock<std::mutex> lock(busy_, std::try_to_lock);
        if (!lock) return false;
        try {
            workers_.reserve(std::size_t(parts));
            while (Index(workers_.size()) < parts - 1)
                workers_.push_back(std::make_unique<Worker>(Index(workers_.size()) + 1));
        } catch (const std::exception&) {  // the system can't start another thread
        }
        const Index shared = std::min(parts, Index(workers_.size()) + 1);
        for (Index i = 1; i < shared; ++i) workers_[i - 1]->begin(part);
        part(0);
        for (Index i = shared; i < parts; ++i) part(i);
        for (Index i = 1; i < shared; ++i) workers_[i - 1]->wait();
        return true;
    }

    const long process;

private:
    std::mutex busy_;
    std::vector<std::unique_ptr<Worker>> workers_;
};

long this_process() {
#if defined(__unix__) || defined(__APPLE__)
    return getpid();
#else
    return 1;
#endif
}

// The team of this process, which is never destroyed. A fork has none of its parent's threads.
Team& team() {
    static std::atomic<Team*> current{nullptr};
    const long process = this_process();
    Team* found = current;
    while (!found || found->process != process) {
        auto fresh = std::make_unique<Team>(process);
        if (current.compare_exchange_strong(found, fresh.get())) found = fresh.release();
    }
    return *found;
}

}  // namespace

void share(Index parts, const Part& part) {
    std::atomic<bool> failed{false};
    const Part whole = [&](Index i) {
        if (guarded([&] { part(i); })) failed = true;
    };
    if (!team().share(parts, whole))
        for (Index i = 0; i < parts; ++i) whole(i);
    if (failed) throw std::bad_alloc();
}
