-- The same without Supabase: each desk is a separate role, and can read the rows of its pages, which crm.page_readers
-- lists. Run it after Milepost's first start, as the owner of the database; you can run it again at any time.

BEGIN;

DO $$ BEGIN CREATE ROLE crm_reader NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;

CREATE SCHEMA IF NOT EXISTS crm;
GRANT USAGE ON SCHEMA crm, milepost TO crm_reader;

CREATE TABLE IF NOT EXISTS crm.page_readers (
    reader name NOT NULL,
    page_id text NOT NULL,
    PRIMARY KEY (reader, page_id)
);
ALTER TABLE crm.page_readers ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON crm.page_readers TO crm_reader;
DROP POLICY IF EXISTS see_own ON crm.page_readers;
CREATE POLICY see_own ON crm.page_readers FOR SELECT TO crm_reader USING (reader = current_user);

DO $$
DECLARE
    each regclass;
BEGIN
    FOR each IN
        SELECT oid FROM pg_class
        WHERE
            relnamespace = 'milepost'::regnamespace AND relkind IN ('r', 'p') AND NOT relrowsecurity
            AND relowner = (SELECT relowner FROM pg_class WHERE oid = 'milepost.journal'::regclass)
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', each);
    END LOOP;

    FOREACH each IN ARRAY ARRAY[
        'milepost.pages', 'milepost.contacts', 'milepost.conversations', 'milepost.contact_interaction_events'
    ]::regclass[]
    LOOP
        EXECUTE format('GRANT SELECT ON %s TO crm_reader', each);
        EXECUTE format('DROP POLICY IF EXISTS readers_read ON %s', each);
        EXECUTE format(
            'CREATE POLICY readers_read ON %s FOR SELECT TO crm_reader'
            ' USING (page_id = ANY (ARRAY(SELECT reader.page_id FROM crm.page_readers AS reader)))',
            each
        );
    END LOOP;
END
$$;

COMMIT;
