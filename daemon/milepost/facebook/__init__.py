"""The conversations edge of the Graph API: Messenger and Instagram inboxes of Facebook Pages."""
