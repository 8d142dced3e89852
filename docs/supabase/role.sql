-- Milepost's role and schema. Run it once, before Milepost's first start, as the owner of the database: on Supabase in
-- the SQL editor. Choose a password.

CREATE ROLE milepost LOGIN PASSWORD 'choose-a-password';

-- You may then set up policies on its tables, and publish them.
GRANT milepost TO CURRENT_USER;

CREATE SCHEMA milepost AUTHORIZATION milepost;
