"""Exact nearest neighbors of all rows, against faiss, hnswlib and PyTorch: word vectors and SIFT descriptors."""

CASES = ("knn_words", "knn_sift")


def test_knn(time_case, case, n, d, rival):
    time_case(case, n, d, rival)
