-- The problem `nonsense` is called `invalid_response`. The journal keeps the old word, which is read as the new one; its
-- projections have the new one. Quotes inside a text are escaped in JSON: only a problem's own kind is written like this.

UPDATE checkpoints
SET state = replace(state::text, '"kind":"nonsense"', '"kind":"invalid_response"')::json
WHERE strpos(state::text, '"kind":"nonsense"') > 0;

UPDATE runs
SET problem = replace(problem::text, '"kind":"nonsense"', '"kind":"invalid_response"')::json
WHERE strpos(problem::text, '"kind":"nonsense"') > 0;
