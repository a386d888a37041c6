"""The rows that the benchmarks train on: generated ones, and real ratings that are on this machine."""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

ROOT = Path(__file__).resolve().parents[2]
ANIME = ROOT.parent / "shared" / "data" / "anime" / "ratings.tsv.gz"

# RecBole's wheel (MIT) carries MovieLens-100k as an example.  GroupLens lets the data be used for research,
# with citation, not passed on: they stay in .bench/, which is not part of the repository.
_FILMS_PACKAGE = "recbole==1.2.1"
_FILMS_MEMBER = "recbole/dataset_example/ml-100k/ml-100k.inter"
FILMS_LICENCE = (
    "MovieLens 100k: GroupLens Research, University of Minnesota; free for research with citation "
    "(F. M. Harper and J. A. Konstan, The MovieLens Datasets, ACM TiiS 5(4), 2015); not to be passed on."
)


@dataclass(frozen=True)
class Rows:
    """Examples.

    Attributes
    ----------
    name : str
        What they are.
    X : csr_matrix of float32 (n, d)
        The features; int32 indices, int64 row starts.
    y : float32 (n,)
        The labels.
    fields : tuple of int
        How many customers and videos there are, where each row is one of each; otherwise empty.
    """

    name: str
    X: sp.csr_matrix
    y: np.ndarray
    fields: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.y)

    @property
    def bytes(self) -> int:
        """Bytes of the arrays."""
        return int(self.X.indptr.nbytes + self.X.indices.nbytes + self.X.data.nbytes + self.y.nbytes)

    def take(self, rows: slice | np.ndarray) -> Rows:
        """Return some of the rows."""
        return Rows(self.name, _csr(self.X[rows]), self.y[rows], self.fields)

    def without_unused_features(self) -> Rows:
        """Return the rows with the features dropped that occur in none of them."""
        used, indices = np.unique(self.X.indices, return_inverse=True)
        arrays = (self.X.data, indices.astype(np.int32), self.X.indptr)
        fields: tuple[int, ...] = ()
        if self.fields:
            customers = int(np.searchsorted(used, self.fields[0]))
            fields = (customers, len(used) - customers)
        X = sp.csr_matrix(arrays, shape=(len(self), len(used)))
        return Rows(self.name, _csr(X), self.y, fields)

    def save(self, path: Path) -> Path:
        """Write the arrays to a file that the runners read."""
        X = self.X
        np.savez(
            path,
            indptr=X.indptr,
            indices=X.indices,
            values=X.data,
            y=self.y,
            shape=X.shape,
            fields=np.array(self.fields, np.int64),
        )
        return path


def load(path: str | Path) -> Rows:
    """Read what `Rows.save` wrote."""
    stored = np.load(path)
    arrays = (stored["values"], stored["indices"], stored["indptr"])
    X = _csr(sp.csr_matrix(arrays, shape=tuple(stored["shape"])))
    return Rows("", X, stored["y"], tuple(int(size) for size in stored["fields"]))


def generated(rows: int, customers: int, videos: int, seed: int = 0) -> Rows:
    """Generate ratings, two features a row, with long tails.

    Of N customers the one of rank ⌊N u²⌋ is drawn, of the videos the one of rank ⌊N u³⌋, u uniform: a
    thousandth of the customers give 3 % of the ratings, a thousandth of the videos get 10 %.
    """
    rng = np.random.default_rng(seed)
    customer = rng.permutation(customers)[(customers * rng.random(rows) ** 2).astype(np.int64)]
    video = rng.permutation(videos)[(videos * rng.random(rows) ** 3).astype(np.int64)]
    y = rng.integers(1, 6, rows).astype(np.float32)
    return _ratings("generated", customer, video, y, customers, videos)


def generated_wide(rows: int, features: int, entries: int = 30, seed: int = 0) -> Rows:
    """Generate rows of many features, each of its own field, with normal values and tails as of customers."""
    rng = np.random.default_rng(seed)
    size = features // entries
    indices = (size * rng.random((rows, entries)) ** 2).astype(np.int32)
    indices += (size * np.arange(entries)).astype(np.int32)
    values = rng.standard_normal(rows * entries, np.float32)
    starts = np.arange(0, rows * entries + 1, entries, dtype=np.int64)
    y = rng.standard_normal(rows, np.float32)
    X = sp.csr_matrix((values, indices.reshape(-1), starts), shape=(rows, size * entries))
    return Rows("wide", _csr(X), y)


def with_truth(rows: int, customers: int, videos: int, seed: int = 0) -> Rows:
    """Generate ratings from 1 to 5 that a factorization of rank 6, with noise, stands behind."""
    drawn = generated(rows, customers, videos, seed)
    rng = np.random.default_rng(seed + 1)
    linear = 0.35 * rng.standard_normal(customers + videos)
    factors = 0.45 * rng.standard_normal((customers + videos, 6))
    pairs = drawn.X.indices.reshape(-1, 2)
    scores = 3.6 + linear[pairs].sum(axis=1) + (factors[pairs[:, 0]] * factors[pairs[:, 1]]).sum(axis=1)
    scores += 0.8 * rng.standard_normal(rows)
    y = np.clip(np.rint(scores), 1, 5).astype(np.float32)
    return Rows("generated ratings", drawn.X, y, drawn.fields)


def anime(path: Path) -> Rows:
    """Read ratings from a gzipped table with the columns customer_id, product_id, star_rating."""
    with gzip.open(path, "rt") as file:
        names = file.readline().split()
        columns = [names.index(name) for name in ("customer_id", "product_id", "star_rating")]
        table = np.loadtxt(file, delimiter="\t", usecols=columns, dtype=np.float64)
    return _indexed("anime ratings (1-10)", table)


def films(folder: Path) -> Rows:
    """Read MovieLens-100k from the wheel that carries it, which is downloaded into ``folder`` if need be.

    Raises
    ------
    RuntimeError
        The wheel is not to be had.
    """
    from benchmarks import peers

    wheels = sorted(folder.glob("recbole-*.whl"))
    wheel = wheels[0] if wheels else peers.download(_FILMS_PACKAGE, folder)
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(_FILMS_MEMBER).decode()
    table = np.loadtxt(io.StringIO(text), delimiter="\t", skiprows=1, usecols=(0, 1, 2), dtype=np.float64)
    print(FILMS_LICENCE, file=sys.stderr)
    return _indexed("MovieLens 100k (1-5)", table)


def split(rows: Rows, seed: int = 0) -> tuple[Rows, Rows, Rows]:
    """Shuffle the rows, and return 80 % for training, 10 % for choosing settings, 10 % for the test."""
    order = np.random.default_rng(seed).permutation(len(rows))
    first, second = int(0.8 * len(rows)), int(0.9 * len(rows))
    train, validate, test = (rows.take(part) for part in np.split(order, [first, second]))
    return train, validate, test


def _indexed(name: str, table: np.ndarray) -> Rows:
    customers, customer = np.unique(table[:, 0], return_inverse=True)
    videos, video = np.unique(table[:, 1], return_inverse=True)
    return _ratings(name, customer, video, table[:, 2], len(customers), len(videos))


def _ratings(
    name: str, customer: np.ndarray, video: np.ndarray, y: np.ndarray, customers: int, videos: int
) -> Rows:
    indices = np.stack((customer, video + customers), axis=1).astype(np.int32).reshape(-1)
    starts = np.arange(0, len(indices) + 1, 2, dtype=np.int64)
    ones = np.ones(len(indices), np.float32)
    X = sp.csr_matrix((ones, indices, starts), shape=(len(y), customers + videos))
    return Rows(name, _csr(X), y.astype(np.float32), (customers, videos))


def _csr(X: sp.csr_matrix) -> sp.csr_matrix:
    """Give a matrix int32 indices and int64 row starts; scipy itself wants both of one type."""
    X.indices = X.indices.astype(np.int32, copy=False)
    X.indptr = X.indptr.astype(np.int64, copy=False)
    return X
