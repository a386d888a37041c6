-- From reviews to training data, in SQL that DuckDB and Spark SQL both run as it stands.
--
-- Reads three views that the engine provides:
--
--   raw     customer_id, product_id, star_rating, product_title, review_date   text
--           further                                                            text, handed on as it is, or null
--           line                                                               bigint, place in the file
--   limits  min_customer_ratings, min_video_ratings                            bigint, one row
--   split   seed, train_below, validate_below                                  text, one row
--
-- and gives kept, customers, videos and parts.  Where an engine cannot tell a row's place, line is 0 throughout.
-- The limits of the split are eight hexadecimal digits.  Nothing depends on the order in which rows are met or
-- on the number of threads.  An engine may store a result as a table before it goes on: it is read by name only.


-- What is wrong with a row, if anything, and its rating as a number that fits a 32-bit float.  What has a d,
-- f, x or _ is no number: a cast alone takes 5d on one engine and 1_000 on the other.
-- A date is ISO 8601 text or a number (seconds since 1970), anything else counts as no date.
CREATE OR REPLACE TEMPORARY VIEW checked AS
SELECT
    customer_id,
    product_id,
    stars AS star_rating,
    NULLIF(TRIM(product_title), '') AS product_title,
    CASE WHEN review_date LIKE '____-__-__%' THEN review_date END AS review_day,
    CASE WHEN ABS(seconds) < 1e18 THEN seconds END AS review_second,
    further,
    line,
    CASE
        WHEN customer_id IS NULL OR TRIM(customer_id) = '' THEN 'empty customer_id'
        WHEN product_id IS NULL OR TRIM(product_id) = '' THEN 'empty product_id'
        WHEN star_rating IS NULL OR TRIM(star_rating) = '' THEN 'empty star_rating'
        WHEN
            stars IS NULL AND LOWER(TRIM(star_rating)) IN (
                'nan', '+nan', '-nan', 'inf', '+inf', '-inf', 'infinity', '+infinity', '-infinity'
            )
            THEN 'star_rating is not a finite number'
        WHEN stars IS NULL THEN 'star_rating is not a number'
        WHEN NOT (ABS(stars) < 3.4e38) THEN 'star_rating is not a finite number'
    END AS problem
FROM (
    SELECT
        raw.*,
        CASE
            WHEN
                INSTR(star_rating, 'd') = 0 AND INSTR(star_rating, 'f') = 0 AND INSTR(star_rating, 'x') = 0
                AND INSTR(star_rating, 'D') = 0 AND INSTR(star_rating, 'F') = 0 AND INSTR(star_rating, 'X') = 0
                AND INSTR(star_rating, '_') = 0
                THEN TRY_CAST(star_rating AS DOUBLE)
        END AS stars,
        CASE
            WHEN
                INSTR(review_date, 'd') = 0 AND INSTR(review_date, 'f') = 0 AND INSTR(review_date, 'x') = 0
                AND INSTR(review_date, 'D') = 0 AND INSTR(review_date, 'F') = 0 AND INSTR(review_date, 'X') = 0
                AND INSTR(review_date, '_') = 0
                THEN TRY_CAST(review_date AS DOUBLE)
        END AS seconds
    FROM raw
) AS numbers;


-- One rating for each customer and product, the latest by date.  Of one date the highest counts, of those
-- without a date the one furthest down in the file.
CREATE OR REPLACE TEMPORARY VIEW ratings AS
SELECT customer_id, product_id, star_rating, further
FROM (
    SELECT
        customer_id,
        product_id,
        star_rating,
        further,
        ROW_NUMBER() OVER (
            PARTITION BY customer_id, product_id
            ORDER BY
                review_second DESC NULLS LAST,
                review_day DESC NULLS LAST,
                CASE WHEN review_second IS NULL AND review_day IS NULL THEN line ELSE 0 END DESC,
                star_rating DESC,
                further
        ) AS place
    FROM checked
    WHERE problem IS NULL
) AS placed
WHERE place = 1;


-- A product's title: the first in alphabetical order, or its id where no row has one.
CREATE OR REPLACE TEMPORARY VIEW titles AS
SELECT product_id, COALESCE(MIN(product_title), product_id) AS product_title
FROM checked
WHERE problem IS NULL
GROUP BY product_id;


-- The ratings of customers and of videos that have enough of them, both counted before anything is dropped.
CREATE OR REPLACE TEMPORARY VIEW kept AS
SELECT customer_id, product_id, star_rating, further
FROM ratings
WHERE
    customer_id IN (
        SELECT customer_id FROM ratings
        GROUP BY customer_id HAVING COUNT(*) >= (SELECT MAX(min_customer_ratings) FROM limits)
    )
    AND product_id IN (
        SELECT product_id FROM ratings
        GROUP BY product_id HAVING COUNT(*) >= (SELECT MAX(min_video_ratings) FROM limits)
    );


-- Sequential numbers from 0: most kept ratings first, then by id.
CREATE OR REPLACE TEMPORARY VIEW customer_numbers AS
SELECT
    CAST(ROW_NUMBER() OVER (ORDER BY COUNT(*) DESC, customer_id) - 1 AS INT) AS customer,
    customer_id,
    CAST(COUNT(*) AS INT) AS ratings
FROM kept
GROUP BY customer_id;


CREATE OR REPLACE TEMPORARY VIEW video_numbers AS
SELECT
    CAST(ROW_NUMBER() OVER (ORDER BY COUNT(*) DESC, product_id) - 1 AS INT) AS video,
    product_id,
    CAST(COUNT(*) AS INT) AS ratings
FROM kept
GROUP BY product_id;


-- The split: the first eight digits of md5(customer_id|product_id|seed) are a fair draw that any engine
-- repeats.  The digits after them put the training rows in random order.
CREATE OR REPLACE TEMPORARY VIEW parts AS
SELECT
    customer_numbers.customer,
    video_numbers.video,
    CAST(drawn.star_rating AS FLOAT) AS star_rating,
    drawn.customer_id,
    drawn.product_id,
    drawn.further,
    CASE
        WHEN SUBSTR(drawn.digest, 1, 8) < split.train_below THEN 'train'
        WHEN SUBSTR(drawn.digest, 1, 8) < split.validate_below THEN 'validate'
        ELSE 'test'
    END AS part,
    SUBSTR(drawn.digest, 9, 12) AS random_order
FROM (
    SELECT kept.*, MD5(CONCAT(customer_id, '|', product_id, '|', seed)) AS digest
    FROM kept CROSS JOIN split
) AS drawn
CROSS JOIN split
INNER JOIN customer_numbers ON drawn.customer_id = customer_numbers.customer_id
INNER JOIN video_numbers ON drawn.product_id = video_numbers.product_id;


CREATE OR REPLACE TEMPORARY VIEW customers AS
SELECT
    customer_numbers.customer,
    customer_numbers.customer_id,
    customer_numbers.ratings,
    COALESCE(trained.train_ratings, 0) AS train_ratings
FROM customer_numbers
LEFT JOIN (
    SELECT customer, CAST(COUNT(*) AS INT) AS train_ratings FROM parts WHERE part = 'train' GROUP BY customer
) AS trained ON customer_numbers.customer = trained.customer;


CREATE OR REPLACE TEMPORARY VIEW videos AS
SELECT
    video_numbers.video,
    video_numbers.product_id,
    titles.product_title,
    video_numbers.ratings,
    COALESCE(trained.train_ratings, 0) AS train_ratings
FROM video_numbers
INNER JOIN titles ON video_numbers.product_id = titles.product_id
LEFT JOIN (
    SELECT video, CAST(COUNT(*) AS INT) AS train_ratings FROM parts WHERE part = 'train' GROUP BY video
) AS trained ON video_numbers.video = trained.video;
