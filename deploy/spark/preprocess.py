"""Preprocess reviews on a Spark cluster: read, clean, index and split them, and write what training reads.

The rules are those of ``01_preprocess`` and ``02_prepare`` (without side features), and so is the result, whatever
the number of executors.  On EMR Serverless (emr-spark-8.0.0) and Glue 5.0 as on this machine; README.md beside this
file has the commands.

    spark-submit --py-files lib.zip preprocess.py --input s3://BUCKET/reviews/ --output s3://BUCKET/prepared
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line; Glue's own, which it adds, are left out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    option = parser.add_argument
    option("--input", required=True, metavar="URI", help="a file, a folder or a pattern: TSV, CSV or Parquet")
    option(
        "--output", required=True, metavar="URI", help="where ratings/, recordio/ and summary.json are put"
    )
    option("--seed", type=int, default=0, help="of the split")
    option(
        "--fractions",
        type=float,
        nargs=3,
        default=(0.6, 0.2, 0.2),
        metavar="SHARE",
        help="train, validate, test",
    )
    option(
        "--min-customer-ratings", type=int, default=5, metavar="N", help="customers with fewer are left out"
    )
    option("--min-video-ratings", type=int, default=10, metavar="N", help="videos with fewer are left out")
    option(
        "--further", nargs="*", default=[], metavar="COLUMN", help="columns to carry along, for side features"
    )
    option("--files", type=int, metavar="N", help="recordIO files a part; by default Spark decides")
    option("--no-recordio", action="store_true", help="write the tables only; 02_prepare makes the rest")
    options, others = parser.parse_known_args(arguments)
    strange = [word for word in others if word.startswith("--") and not _is_glues(word)]
    if strange:
        parser.error(f"there is no option {strange[0]}")
    return options


def _is_glues(word: str) -> bool:
    """Whether Glue gives a script this argument of its own accord."""
    names = ("JOB_NAME", "JOB_ID", "JOB_RUN_ID", "TempDir", "job-", "enable-", "extra-", "additional-")
    return word.removeprefix("--").startswith(
        (*names, "class", "conf", "SECURITY_", "continuous-log", "spark-")
    )


def preprocess(options: argparse.Namespace) -> dict[str, Any]:
    """Do the work in the active session, and return what the summary says.

    Raises
    ------
    ReelbookError
        With one sentence for the user.
    """
    from lib import ratings, spark_outputs

    output = options.output.rstrip("/")
    with ratings.read(options.input, engine="spark", further=options.further) as reviews:
        print(reviews.summary().to_string(), flush=True)
        kept = reviews.keep(options.min_customer_ratings, options.min_video_ratings)
        parts = kept.split(seed=options.seed, fractions=options.fractions)
        print(parts.counts.to_string(), flush=True)
        tables = spark_outputs.write_tables(parts, f"{output}/ratings")
        summary: dict[str, Any] = {
            "ratings_uri": f"{output}/ratings",
            "customers_uri": tables["customers"],
            "videos_uri": tables["videos"],
            "customer_count": kept.customers,
            "video_count": kept.videos,
            "rating_count": kept.ratings,
            "skipped_rows": int(reviews.skipped["rows"].sum()),
            "repeated_ratings": reviews.duplicates,
            "ratings": {part: int(count) for part, count in parts.counts["ratings"].items()},
        }
        if not options.no_recordio:
            records = spark_outputs.write_records(parts, f"{output}/recordio", options.files)
            summary |= {f"{part}_uri": f"{output}/recordio/{part}/" for part in parts.counts.index}
            summary["feature_dim"] = kept.customers + kept.videos
            summary["recordio_files"] = {part: int(n) for part, n in records["part"].value_counts().items()}
        spark_outputs.write_text(parts, json.dumps(summary, indent=2), f"{output}/summary.json")
    return summary


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; 2 and one sentence when the input is wrong."""
    options = parsed(arguments)
    from pyspark.sql import SparkSession

    from lib.errors import ReelbookError

    session = SparkSession.builder.appName("reelbook-preprocess").getOrCreate()
    session.sparkContext.setLogLevel("WARN")
    try:
        print(json.dumps(preprocess(options)), flush=True)
    except ReelbookError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        session.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
