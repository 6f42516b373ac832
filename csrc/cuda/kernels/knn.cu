// A block owns a panel of queries, and visits its tiles against a split of the columns. A score that beats the query's
// k-th best so far is appended to the query's reservoir. A warp sorts a reservoir that the next tile might overflow,
// and keeps the k best. If there are few panels of queries, each split of the columns has its own block, and the
// splits' lists are merged at the end. The order of candidates is total, so the order in which threads append them does
// not matter.

#include "cuda/kernels/knn.h"

#include "core/int_math.h"
#include "cuda/device/warp_sort.h"
#include "cuda/gemm/candidate_tile.h"

namespace hardmine::cuda {
namespace {

constexpr int kWarps = kTileThreads / 32;
constexpr int64_t kTargetBlocks = 256;  // enough to occupy a GPU
constexpr int64_t kMinSplitPanels = 2;  // per split
// The smallest GPUs have 99 KiB of shared memory per block.
constexpr size_t kMaxListBytes = 96 * 1024, kMaxSharedBytes = 99 * 1024;

// The number of warps of a block that sort at the same time, each a list of `capacity` candidates.
template <class acc_t>
int sorting_warps(int capacity) {
  return static_cast<int>(std::clamp<size_t>(kMaxListBytes / (capacity * sizeof(PackedCandidate<acc_t>)), 1, kWarps));
}

template <class acc_t>
struct KnnReservoirs {
  PackedCandidate<acc_t>* candidates;  // [num_splits, queries, capacity]
  int32_t* size;                       // [num_splits, queries], of the reservoirs
  int capacity, sorting_warps;
  int64_t num_splits, queries;

  __device__ __forceinline__ PackedCandidate<acc_t>* at(int64_t split, int64_t query) const {
    return candidates + (split * queries + query) * capacity;
  }
};

template <class acc_t>
struct KnnEpilogue {
  Similarity kind;
  int k;
  KnnOut<acc_t> out;
};

template <class MmaPolicy>
struct KnnParams {
  using acc_t = typename MmaPolicy::acc_t;
  PackedMatrix<MmaPolicy> rows, columns;
  PairIds ids;
  bool exclude_self;
  bool may_overflow;  // a reservoir cannot hold all columns of its split
  KnnReservoirs<acc_t> reservoirs;
  KnnEpilogue<acc_t> epilogue;
};

// Room for the k best, for some slack so that not every tile causes a sort, and for all columns of one more tile.
int capacity_of(int64_t k, int64_t columns, int64_t tile) {
  const int64_t slack = std::clamp<int64_t>(k / 2, 16, tile);
  return static_cast<int>(next_power_of_two(std::min(k + slack + tile, columns)));
}

template <class MmaPolicy>
size_t knn_shared_bytes(int capacity, int warps) {
  using acc_t = typename MmaPolicy::acc_t;
  constexpr size_t kRowBytes = MmaPolicy::kTile * (sizeof(acc_t) + sizeof(int32_t));
  static_assert(std::max(MmaPolicy::kSharedBytes, kMaxListBytes) + kRowBytes <= kMaxSharedBytes);
  return std::max(MmaPolicy::kSharedBytes, warps * capacity * sizeof(PackedCandidate<acc_t>)) + kRowBytes;
}

// Writes a query's sorted list to the outputs. All lanes of a warp call it.
template <class acc_t>
__device__ __forceinline__ void write_neighbors(const KnnEpilogue<acc_t>& epilogue, const PackedCandidate<acc_t>* list,
                                                int size, int64_t query) {
  for (int n = lane_index(); n < epilogue.k; n += 32) {
    const bool found = n < size;
    // Adds 0 so that no zero has a sign: packed keys have lost it.
    epilogue.out.similarity[query * epilogue.k + n] =
        found ? similarity_from_key(epilogue.kind, list[n].key() + acc_t(0)) : std::numeric_limits<acc_t>::quiet_NaN();
    epilogue.out.index[query * epilogue.k + n] = found ? list[n].index() : -1;
  }
}

template <class MmaPolicy, Ids kIds>
class KnnPanel {
  using acc_t = typename MmaPolicy::acc_t;
  using Candidate = PackedCandidate<acc_t>;
  static constexpr int kTile = MmaPolicy::kTile, kRows = MmaPolicy::kRows, kColumns = MmaPolicy::kColumns;

 public:
  __device__ __forceinline__ KnnPanel(const KnnParams<MmaPolicy>& params, int64_t row_panel, int64_t split)
      : params_(params), row_panel_(row_panel), split_(split) {
    const size_t lists =
        params.reservoirs.sorting_warps * static_cast<size_t>(params.reservoirs.capacity) * sizeof(Candidate);
    worst_key_ =
        reinterpret_cast<acc_t*>(shared_memory() + (lists > MmaPolicy::kSharedBytes ? lists : MmaPolicy::kSharedBytes));
    size_ = reinterpret_cast<int32_t*>(worst_key_ + kTile);
  }

  __device__ __forceinline__ void run() {
    if (threadIdx.x < kTile) {
      worst_key_[threadIdx.x] = -std::numeric_limits<acc_t>::infinity();
      size_[threadIdx.x] = 0;
    }
    __syncthreads();
    const int64_t panels = panels_of<MmaPolicy>(params_.columns.count), num_splits = params_.reservoirs.num_splits;
    const int64_t last = panels * (split_ + 1) / num_splits;
    for (int64_t column = panels * split_ / num_splits; column < last; ++column) {
      make_candidate_tile<kIds>(params_.rows, params_.columns, params_.ids, row_panel_, column, fragment_);
      const bool full = append(column * kTile);
      if (__syncthreads_or(full && params_.may_overflow)) {
        for_each_row([&](int row) {
          if (size_[row] > max_fill()) cut(row);
        });
        __syncthreads();  // before the engine overwrites the lists
      }
    }
    for_each_row([&](int row) { finalize(row); });
    __syncthreads();  // before the next panel
  }

 private:
  // The most candidates that a reservoir may hold before a tile is added.
  __device__ __forceinline__ int max_fill() const { return params_.reservoirs.capacity - kTile; }

  __device__ __forceinline__ int64_t query(int row) const { return row_panel_ * kTile + row; }

  // Distributes the panel's rows over the warps that sort.
  template <class Use>
  __device__ __forceinline__ void for_each_row(const Use& use) {
    const int warps = params_.reservoirs.sorting_warps;
    if (warp_index() >= warps) return;
    for (int row = warp_index(); row < kTile && query(row) < params_.rows.count; row += warps) use(row);
  }

  // Appends the scores that beat their row's worst. True if some reservoir may overflow with the next tile.
  __device__ __forceinline__ bool append(int64_t first_column) {
    const int64_t left = params_.columns.count - first_column;
    const int columns = left < kTile ? static_cast<int>(left) : kTile;
    const bool has_selves = params_.exclude_self && first_column == row_panel_ * kTile;  // a tile on the diagonal
    bool full = false;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int row = MmaPolicy::row(r);
      if (query(row) >= params_.rows.count) continue;
      // Columns come in ascending order: at an equal key, those in the reservoir win. NaN beats nothing.
      const acc_t worst = worst_key_[row];
      uint32_t better = 0;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int column = MmaPolicy::column(c);
        const bool candidate = column < columns && !(has_selves && column == row);
        better |= static_cast<uint32_t>(candidate &&
                                        key_from_score(MmaPolicy::kSquaredDifferences, fragment_.at[r][c]) > worst)
                  << c;
      }
      if (better == 0) continue;
      const int32_t count = __popc(better), place = atomicAdd(size_ + row, count);
      full |= place + count > max_fill();
      Candidate* to = params_.reservoirs.at(split_, query(row)) + place;
#pragma unroll
      for (int c = 0; c < kColumns; ++c)
        if (better >> c & 1)
          *to++ = Candidate::of(key_from_score(MmaPolicy::kSquaredDifferences, fragment_.at[r][c]),
                                static_cast<Index>(first_column + MmaPolicy::column(c)));
    }
    return full;
  }

  // Sorts a row's reservoir in the warp's list.
  __device__ __forceinline__ const Candidate* sorted(int row) {
    const Candidate* reservoir = params_.reservoirs.at(split_, query(row));
    Candidate* list = reinterpret_cast<Candidate*>(shared_memory()) + warp_index() * params_.reservoirs.capacity;
    __syncwarp();  // before the previous row's list is overwritten
    for (int i = lane_index(); i < size_[row]; i += 32) list[i] = reservoir[i];
    warp_bitonic_sort(list, size_[row]);
    return list;
  }

  // Keeps the k best of a row that has more.
  __device__ __forceinline__ void cut(int row) {
    const Candidate* list = sorted(row);
    Candidate* reservoir = params_.reservoirs.at(split_, query(row));
    for (int i = lane_index(); i < params_.epilogue.k; i += 32) reservoir[i] = list[i];
    if (lane_index() == 0) {  // all lanes have read the size before they sorted
      worst_key_[row] = list[params_.epilogue.k - 1].key();
      size_[row] = params_.epilogue.k;
    }
  }

  __device__ __forceinline__ void finalize(int row) {
    const Candidate* list = sorted(row);
    const int size = size_[row] < params_.epilogue.k ? size_[row] : params_.epilogue.k;
    if (params_.reservoirs.num_splits == 1) return write_neighbors(params_.epilogue, list, size, query(row));
    Candidate* reservoir = params_.reservoirs.at(split_, query(row));
    for (int i = lane_index(); i < size; i += 32) reservoir[i] = list[i];
    if (lane_index() == 0) params_.reservoirs.size[split_ * params_.reservoirs.queries + query(row)] = size;
  }

  const KnnParams<MmaPolicy>& params_;
  int64_t row_panel_, split_;
  acc_t* worst_key_;  // [kTile]: the k-th best key, once there are k candidates
  int32_t* size_;     // [kTile], of the reservoirs
  Fragment<MmaPolicy> fragment_;
};

template <class MmaPolicy, Ids kIds>
__global__ void __launch_bounds__(kTileThreads, 2) knn_kernel(KnnParams<MmaPolicy> params) {
  const int64_t panels = panels_of<MmaPolicy>(params.rows.count);
  for (int64_t i = blockIdx.x; i < panels * params.reservoirs.num_splits; i += gridDim.x)
    KnnPanel<MmaPolicy, kIds>(params, i % panels, i / panels).run();
}

// Merges the splits' lists of a query, one query per warp, in a list of `list_capacity` >= 2 k candidates.
template <class acc_t>
__global__ void __launch_bounds__(kTileThreads, 2)
    merge_knn_kernel(KnnReservoirs<acc_t> reservoirs, KnnEpilogue<acc_t> epilogue, int list_capacity) {
  PackedCandidate<acc_t>* list =
      reinterpret_cast<PackedCandidate<acc_t>*>(shared_memory()) + warp_index() * list_capacity;
  const int warps = warps_per_block();
  for (int64_t query = int64_t{blockIdx.x} * warps + warp_index(); query < reservoirs.queries;
       query += int64_t{gridDim.x} * warps) {
    int size = 0;
    for (int64_t split = 0; split < reservoirs.num_splits; ++split) {
      const int split_size = reservoirs.size[split * reservoirs.queries + query];
      if (size + split_size > list_capacity) {
        warp_bitonic_sort(list, size);
        size = epilogue.k;  // the size was above list_capacity - k >= k
      }
      for (int i = lane_index(); i < split_size; i += 32) list[size + i] = reservoirs.at(split, query)[i];
      size += split_size;
    }
    warp_bitonic_sort(list, size);
    write_neighbors(epilogue, list, size, query);
    __syncwarp();  // before the next query
  }
}

}  // namespace

template <class MmaPolicy, class Scalar>
void knn(Similarity kind, const Matrix<Scalar>& queries, const Matrix<Scalar>* refs, int64_t depth, int64_t k,
         bool exclude_self, const KnnOut<typename MmaPolicy::acc_t>& out, Workspace& workspace, const Stream& stream) {
  using acc_t = typename MmaPolicy::acc_t;
  if (queries.count == 0) return;
  const PairMeasure measure = measure_of(kind);
  KnnParams<MmaPolicy> params{};
  params.rows = pack_matrix<MmaPolicy>(queries.x, queries.count, depth, measure, workspace, stream);
  params.columns = refs ? pack_matrix<MmaPolicy>(refs->x, refs->count, depth, measure, workspace, stream) : params.rows;
  params.ids = {queries.id, refs ? refs->id : queries.id};
  params.exclude_self = !refs && exclude_self;
  params.epilogue = {kind, static_cast<int>(k), out};

  const int64_t row_panels = panels_of<MmaPolicy>(queries.count);
  const int64_t column_panels = panels_of<MmaPolicy>(params.columns.count);
  KnnReservoirs<acc_t>& reservoirs = params.reservoirs;
  reservoirs.queries = queries.count;
  reservoirs.num_splits =
      std::max<int64_t>(1, std::min(ceil_div(kTargetBlocks, row_panels), column_panels / kMinSplitPanels));
  // The largest number of columns of a split.
  const int64_t split_columns =
      std::min(params.columns.count, ceil_div(column_panels, reservoirs.num_splits) * MmaPolicy::kTile);
  reservoirs.capacity = capacity_of(k, split_columns, MmaPolicy::kTile);
  reservoirs.sorting_warps = sorting_warps<acc_t>(reservoirs.capacity);
  reservoirs.candidates =
      workspace.array<PackedCandidate<acc_t>>(reservoirs.num_splits * reservoirs.queries * reservoirs.capacity);
  reservoirs.size = workspace.array<int32_t>(reservoirs.num_splits * reservoirs.queries);
  params.may_overflow = split_columns > reservoirs.capacity;
  launch("knn", params.ids.given() ? knn_kernel<MmaPolicy, Ids::kGiven> : knn_kernel<MmaPolicy, Ids::kNone>,
         {row_panels * reservoirs.num_splits, kTileThreads,
          knn_shared_bytes<MmaPolicy>(reservoirs.capacity, reservoirs.sorting_warps)},
         stream, params);
  if (reservoirs.num_splits == 1) return;
  const int list_capacity = static_cast<int>(std::max<int64_t>(2 * next_power_of_two(k), 64)),
            warps = sorting_warps<acc_t>(list_capacity);
  launch("merge_knn", merge_knn_kernel<acc_t>,
         {ceil_div(queries.count, warps), 32 * warps, warps * list_capacity * sizeof(PackedCandidate<acc_t>)}, stream,
         reservoirs, params.epilogue, list_capacity);
}

#define HARDMINE_INSTANTIATE(MmaPolicy, Scalar) template decltype(knn<MmaPolicy, Scalar>) knn<MmaPolicy, Scalar>;
HARDMINE_FOR_EVERY_MMA_POLICY(HARDMINE_INSTANTIATE)
#undef HARDMINE_INSTANTIATE

}  // namespace hardmine::cuda
