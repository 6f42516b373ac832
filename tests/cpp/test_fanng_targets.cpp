// Every SIMD target gives the same graph and the same search results, bit for bit. A process chooses its target once,
// so this executable runs itself once per target and prints hashes of what it built.

#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <map>

#include "support/graphs.h"
#include "support/simd_targets.h"

namespace cpu = hardmine::cpu;
namespace fanng = hardmine::fanng;  // not all of hardmine, whose Index is a number
using namespace hardmine::test;
using fanng::Index;
using fanng::Seeding;

namespace {

template <class T>
uint64_t mixed(uint64_t hash, const std::vector<T>& values) {
  for (const T& value : values) {
    uint64_t bits;
    if constexpr (std::is_same_v<T, float>) {
      bits = value != value ? 1 : std::bit_cast<uint32_t>(value);
    } else {
      bits = static_cast<uint64_t>(value);
    }
    hash = (hash ^ bits) * 0x100000001b3;
  }
  return hash;
}

uint64_t hash_of(const Index& index) {
  uint64_t hash = mixed(mixed(0xcbf29ce484222325, index.graph().first_edge), index.graph().target);
  hash = mixed(hash, std::vector<int64_t>{index.stats().traversals, index.stats().distance_computations});
  const Found found = listed(index, 9, 100);
  return mixed(mixed(hash, found.distance), found.index);
}

// One hash per build, with the SIMD target of this process.
std::map<std::string, uint64_t> build_hashes() {
  std::map<std::string, uint64_t> hashes;
  for (const Metric metric : kMetrics) {
    for (const int64_t depth : {1, 3, 8, 16, 17, 33, 64, 100}) {
      Random random(static_cast<uint64_t>(depth));
      const Cloud cloud = real_cloud(metric, 300, depth, random);
      const std::string name = name_of(metric) + "_" + std::to_string(depth) + "_";
      const Index traversed = built(cloud, {.seed = 3, .max_traversals = 4000});
      hashes[name + "traversed"] = hash_of(traversed);
      hashes[name + "naive"] = hash_of(built(cloud, {.success_rate = 0}, Seeding::kAllEdges));
      hashes[name + "nearest"] =
          hash_of(built(cloud, {.max_degree = 6, .max_traversals = 1000, .refinements = 1}, Seeding::kNearest));
      const Cloud other = real_cloud(metric, 300, depth, random);
      hashes[name + "warm"] = hash_of(built(other, {.max_traversals = 1000}, Seeding::kNothing, &traversed));
    }
  }
  return hashes;
}

// The hashes that this executable prints for another target.
std::map<std::string, uint64_t> hashes_at(const std::string& target) {
  // popen runs a shell, for which /proc/self is the shell.

  const std::string command =
      "HARDMINE_SIMD=" + target + " HARDMINE_PRINT_HASHES=1 /proc/" + std::to_string(getpid()) + "/exe";
  FILE* const output = popen(command.c_str(), "r");
  CHECK(output != nullptr);
  std::map<std::string, uint64_t> hashes;
  char name[64];
  for (uint64_t hash; output && std::fscanf(output, "%63s %" SCNx64 "\n", name, &hash) == 2;) hashes[name] = hash;
  CHECK(output && pclose(output) == 0);
  return hashes;
}

}  // namespace

TEST(hashes_if_requested_are_printed) {
  if (!std::getenv("HARDMINE_PRINT_HASHES")) return;
  for (const auto& [name, hash] : build_hashes()) std::printf("%s %" PRIx64 "\n", name.c_str(), hash);
  std::fflush(stdout);
  std::_Exit(0);
}

TEST(squared_distances_any_target_equal_single_distances) {
  for (const BuiltTarget& target : built_targets()) {
    if (!target.available) continue;
    for (const int64_t stride : {16, 32, 48, 128, 144, 1024}) {
      Random random(static_cast<uint64_t>(stride));
      const std::vector<float> x = rough_rows<float>(40, stride, false, random);
      const std::vector<float> query = rough_rows<float>(1, stride, false, random);
      for (const int64_t count : {0, 1, 2, 3, 4, 5, 17}) {
        std::vector<Vertex> rows(count);
        for (Vertex& row : rows) row = static_cast<Vertex>(random.below(40));
        std::vector<float> got(count + 1, 7.0F), want(count + 1, 7.0F);
        target.for_float.squared_distances(query.data(), x.data(), stride, rows.data(), count, got.data());
        for (int64_t i = 0; i < count; ++i)
          want[i] = scalar_kernels<float>().squared_distance(query.data(), x.data() + rows[i] * stride, stride);
        context = target.name + ", stride " + std::to_string(stride) + ", " + std::to_string(count) + " rows";
        CHECK(same_bits(got, want));
      }
    }
  }
}

TEST(build_any_target_gives_same_graph) {
  const std::map<std::string, uint64_t> scalar = hashes_at("scalar");
  CHECK_EQ(scalar.size(), size_t{64});
  int64_t compared = 0;
  for (const BuiltTarget& target : built_targets()) {
    if (!target.available || target.name == "scalar") continue;
    const std::map<std::string, uint64_t> hashes = hashes_at(target.name);
    for (const auto& [name, hash] : scalar) {
      context = target.name + ", " + name;
      CHECK(hashes.contains(name) && hashes.at(name) == hash);
    }
    ++compared;
  }
  std::printf("compared with scalar: %d targets\n", static_cast<int>(compared));
}
