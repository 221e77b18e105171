-- Which attributes explain the matches of each article type? The latest run with fill auto, the eight most frequent types.
WITH latest AS (SELECT max(run_id) AS run_id FROM runs WHERE run_id LIKE 'fill-auto-%'),
explained AS (
  SELECT type.attribute[14:] AS article_type, split_part(e.top[1].name, '=', 1) AS first_attribute, e.*
  FROM explanations e
  JOIN latest USING (run_id)
  JOIN products p ON p.run_id = e.run_id AND p.product_id = e.query_id,
  UNNEST(p.attributes) AS type(attribute)
  WHERE type.attribute LIKE 'article_type=%'
)
SELECT article_type, count(*) AS pairs,
       avg((first_attribute = 'article_type')::INT) AS by_type,
       avg((first_attribute = 'base_colour')::INT) AS by_colour,
       avg((first_attribute = 'gender')::INT) AS by_gender,
       avg((first_attribute = 'usage')::INT) AS by_usage,
       mode(top[1].name) AS most_often
FROM explained GROUP BY ALL ORDER BY pairs DESC, article_type LIMIT 8
