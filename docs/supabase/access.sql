-- Access to Milepost's tables over Supabase's API: users can read the rows of their pages, which crm.page_members lists;
-- the server's key can read all rows; without signing in nothing can be read. Nobody can write. Run it after Milepost's
-- first start; you can run it again at any time.

BEGIN;

CREATE SCHEMA IF NOT EXISTS crm;
REVOKE ALL ON SCHEMA crm FROM PUBLIC, anon, authenticated;
GRANT USAGE ON SCHEMA crm TO authenticated, service_role;

CREATE TABLE IF NOT EXISTS crm.page_members (
    user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
    page_id text NOT NULL,
    PRIMARY KEY (user_id, page_id)
);
ALTER TABLE crm.page_members ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON crm.page_members FROM PUBLIC, anon, authenticated;
GRANT SELECT ON crm.page_members TO authenticated;
GRANT ALL ON crm.page_members TO service_role;
DROP POLICY IF EXISTS see_own ON crm.page_members;
CREATE POLICY see_own ON crm.page_members FOR SELECT TO authenticated USING (user_id = (SELECT auth.uid()));

GRANT USAGE ON SCHEMA milepost TO authenticated, service_role;

DO $$
DECLARE
    each regclass;
BEGIN
    -- On all tables, even those that nobody is granted: a grant by mistake then shows nothing, and Milepost enables it
    -- on the tables of later versions, too.
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
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC, anon, authenticated, service_role', each);
        EXECUTE format('GRANT SELECT ON %s TO authenticated, service_role', each);
        EXECUTE format('DROP POLICY IF EXISTS members_read ON %s', each);
        -- What stands in ARRAY() is read once for a query, not once for a row: the user's own memberships.
        EXECUTE format(
            'CREATE POLICY members_read ON %s FOR SELECT TO authenticated'
            ' USING (page_id = ANY (ARRAY(SELECT member.page_id FROM crm.page_members AS member)))',
            each
        );
    END LOOP;
END
$$;

COMMIT;
