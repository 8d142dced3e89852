"""The same copy with dlt: its REST source, merged into a database by id; lists become separate tables.

    python benchmarks/dlt_merge.py BASE_URL DATABASE_URL BATCH_SIZE MESSAGES PAGE_ID...

The database is PostgreSQL or SQLite (`sqlite:///…`); pages are read at the same time. It needs dlt:
pip install 'dlt[postgres,sqlalchemy]'
"""

import sys

try:
    import dlt  # type: ignore[import-not-found, unused-ignore]  # not installed with the project
    from dlt.sources.rest_api import rest_api_source  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    sys.exit("this script needs dlt: pip install 'dlt[postgres,sqlalchemy]'")


def main() -> None:
    """Copy the inboxes of all pages, in one load."""
    base_url, url, batch_size, messages, *page_ids = sys.argv[1:]
    fields = (
        "id,updated_time,link,snippet,message_count,unread_count,can_reply,participants,"
        f"messages.limit({messages}){{{{id,created_time,from,message,sticker,attachments,shares}}}}"
    )
    paginator = {
        "type": "json_link",
        "next_url_path": "paging.next",
    }  # dlt's own cursor paging sends one request too many
    inboxes = [
        {
            "name": f"conversations_{page_id}",
            "table_name": "conversations",
            "primary_key": "id",
            "write_disposition": "merge",
            "endpoint": {
                "path": f"v26.0/{page_id}/conversations",
                "params": {"platform": "messenger", "fields": fields, "limit": batch_size},
                "data_selector": "data",
                "paginator": paginator,
            },
        }
        for page_id in page_ids
    ]
    auth = {"type": "bearer", "token": "benchmark-token"}
    source = rest_api_source({"client": {"base_url": base_url, "auth": auth}, "resources": inboxes}, parallelized=True)
    is_sqlite = url.startswith("sqlite:")
    destination = dlt.destinations.sqlalchemy(url) if is_sqlite else dlt.destinations.postgres(url)
    # The data set that stands for the file itself in SQLite.
    dataset = "main" if is_sqlite else "by_dlt"
    pipeline = dlt.pipeline("benchmark", destination=destination, dataset_name=dataset, pipelines_dir="dlt-state")
    pipeline.run(source)


if __name__ == "__main__":
    main()
