-- Lists privileges of the roles of Supabase's API on Milepost's objects that access.sql does not grant. Run it after an
-- upgrade, or when somebody else has worked on the database: it should return no rows.

WITH api AS (
    SELECT oid, rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated')
),
relations AS (
    SELECT oid, relname, relkind, relrowsecurity FROM pg_class
    WHERE
        relnamespace = 'milepost'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S')
        AND relowner = (SELECT relowner FROM pg_class WHERE oid = 'milepost.journal'::regclass)
),
shown (relname) AS (
    VALUES ('pages'), ('contacts'), ('conversations'), ('contact_interaction_events')
)
SELECT rolname AS who, privilege AS may, oid_of.name AS what
FROM api
CROSS JOIN relations
CROSS JOIN LATERAL (SELECT relations.oid::regclass::text AS name) AS oid_of
CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS privilege
WHERE
    relkind <> 'S'
    AND (
        has_table_privilege(api.oid, relations.oid, privilege)
        OR privilege IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
        AND has_any_column_privilege(api.oid, relations.oid, privilege)
    )
    AND NOT (rolname = 'authenticated' AND privilege = 'SELECT' AND relname IN (SELECT relname FROM shown))
UNION ALL
SELECT rolname, privilege, relations.oid::regclass::text
FROM api CROSS JOIN relations CROSS JOIN unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) AS privilege
-- CASE, because the sides of an AND may be taken in any order, and the function refuses what is no sequence.
WHERE CASE relkind WHEN 'S' THEN has_sequence_privilege(api.oid, relations.oid, privilege) ELSE false END
UNION ALL
SELECT rolname, 'EXECUTE', pg_proc.oid::regprocedure::text
FROM api CROSS JOIN pg_proc
WHERE
    pronamespace = 'milepost'::regnamespace AND has_function_privilege(api.oid, pg_proc.oid, 'EXECUTE')
    AND proowner = (SELECT relowner FROM pg_class WHERE oid = 'milepost.journal'::regclass)
UNION ALL
SELECT 'whoever is granted it', 'see every row of', oid::regclass::text
FROM relations
WHERE relkind IN ('r', 'p') AND NOT relrowsecurity
UNION ALL
SELECT rolname, 'see rows by the policy ' || polname || ' of', polrelid::regclass::text
FROM pg_policy JOIN relations ON relations.oid = polrelid
JOIN api ON api.oid = ANY (polroles) OR 0 = ANY (polroles)
WHERE polname <> 'members_read'
UNION ALL
-- A view reads with the privileges of its owner unless it says otherwise, past all policies.
SELECT DISTINCT rolname, 'see every row through', ev_class::regclass::text
FROM api
CROSS JOIN pg_depend
JOIN pg_rewrite ON pg_rewrite.oid = objid
JOIN pg_class AS shower ON shower.oid = ev_class
WHERE
    classid = 'pg_rewrite'::regclass AND refclassid = 'pg_class'::regclass
    AND refobjid IN (SELECT oid FROM relations) AND shower.relkind IN ('v', 'm')
    AND NOT coalesce('security_invoker=true' = ANY (shower.reloptions), false)
    AND has_table_privilege(api.oid, ev_class, 'SELECT')
ORDER BY 1, 3, 2;
