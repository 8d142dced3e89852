-- What earlier versions created was open to whoever default privileges name: on some hosts the roles of an API, and for
-- functions everybody. Those privileges are revoked. What was granted by hand to somebody else stays, and so do the
-- default privileges of a schema of our own, which somebody has set up for it.

DO $$
DECLARE
    command text;
BEGIN
    FOR command IN
        WITH objects AS (
            SELECT
                CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
                CASE relkind WHEN 'S' THEN 'S' ELSE 'r' END AS type,
                oid::regclass::text AS name, relname AS bare, relowner AS owner, relacl AS acl
            FROM pg_class
            WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'S')
            UNION ALL
            SELECT
                'ROUTINE', 'f', oid::regprocedure::text, proname, proowner,
                coalesce(proacl, acldefault('f', proowner))
            FROM pg_proc
            WHERE pronamespace = current_schema()::regnamespace
        )
        SELECT DISTINCT
            format(
                'REVOKE ALL ON %s %s FROM %s CASCADE', kind, name,
                CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
            )
        FROM objects CROSS JOIN LATERAL aclexplode(acl)
        WHERE
            grantee <> owner
            AND owner = (SELECT relowner FROM pg_class WHERE oid = 'journal'::regclass)
            AND (
                bare IN (
                    'journal', 'checkpoints', 'runs', 'dead_letters', 'dead_letter_payloads', 'contacts',
                    'conversations', 'contact_interaction_events', 'missed_conversations', 'forgotten',
                    'unfinished_copy', 'source', 'schema_migrations', 'journal_refuses_gaps', 'journal_refuses_change',
                    'instant_text'
                )
                OR starts_with(bare, 'procrastinate_')
            )
            AND (
                kind = 'ROUTINE' AND grantee = 0
                OR EXISTS (
                    SELECT 1
                    FROM pg_default_acl CROSS JOIN LATERAL aclexplode(defaclacl) AS given
                    WHERE
                        defaclrole = owner AND defaclobjtype = type AND given.grantee = aclexplode.grantee
                        AND (
                            defaclnamespace = 0
                            OR current_schema() = 'public' AND defaclnamespace = 'public'::regnamespace
                        )
                )
            )
    LOOP
        EXECUTE command;
    END LOOP;
END
$$;
