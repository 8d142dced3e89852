-- The problem `nonsense` is called `invalid_response`. The journal keeps the old word, which is read as the new one; its
-- projections have the new one. Quotes inside a text are escaped in JSON: only a problem's own kind is written like this.

UPDATE checkpoints
SET state = replace(state, '"kind":"nonsense"', '"kind":"invalid_response"')
WHERE instr(state, '"kind":"nonsense"');

UPDATE runs
SET problem = replace(problem, '"kind":"nonsense"', '"kind":"invalid_response"')
WHERE instr(problem, '"kind":"nonsense"');
