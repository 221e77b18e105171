-- Matches whose first attribute the catalogue denies of the reference, by the column of that attribute.
WITH latest AS (SELECT max(run_id) AS run_id FROM runs WHERE run_id LIKE 'fill-auto-%')
SELECT split_part(top[1].name, '=', 1) AS first_attribute, count(*) AS pairs,
       count(*) FILTER (NOT top[1].on_query) AS query_lacks_it,
       count(*) FILTER (NOT top[1].on_reference) AS reference_lacks_it,
       avg((NOT top[1].on_reference)::INT) AS share,
       mode(top[1].name) FILTER (NOT top[1].on_reference) AS most_often
FROM explanations JOIN latest USING (run_id) GROUP BY ALL ORDER BY reference_lacks_it DESC
