-- Matches explained by the image's border, with the border's part of the area, under two fills.
WITH latest AS (SELECT split_part(run_id, '-', 2) AS fill, max(run_id) AS run_id FROM runs WHERE run_id LIKE 'fill-%' GROUP BY ALL)
SELECT e.fill, count(*) AS pairs, count(DISTINCT query_id) AS queries,
       avg(border_area) AS border_area, avg(border_share) AS border_share,
       avg((border_share > border_area)::INT) AS more_than_its_area,
       avg((border_share > 0.5)::INT) AS mostly_border,
       avg((least(peak_row, input_height - 1 - peak_row) + 0.5 < input_height / 8
            OR least(peak_column, input_width - 1 - peak_column) + 0.5 < input_width / 8)::INT) AS peak_in_border,
       avg(background_area) AS background_area, avg(background_share) AS background_share
FROM explanations e JOIN latest USING (run_id) GROUP BY ALL ORDER BY e.fill
