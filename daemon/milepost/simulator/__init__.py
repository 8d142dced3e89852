"""A simulator of the Graph API's conversations edge, for trying Milepost and for users' own tests."""
