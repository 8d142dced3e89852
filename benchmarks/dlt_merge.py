"""The same copy with dlt: its REST source, merged into PostgreSQL by id; lists become separate tables.

    python benchmarks/dlt_merge.py BASE_URL POSTGRESQL_URL BATCH_SIZE MESSAGES PAGE_ID...

It needs dlt: pip install 'dlt[postgres]'
"""

import sys

try:
    import dlt  # type: ignore[import-not-found, unused-ignore]  # not installed with the project
    from dlt.sources.rest_api import rest_api_source  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    sys.exit("this script needs dlt: pip install 'dlt[postgres]'")


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
            "name": "conversations",
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
    source = rest_api_source({"client": {"base_url": base_url, "auth": auth}, "resources": inboxes})
    pipeline = dlt.pipeline(
        "benchmark", destination=dlt.destinations.postgres(url), dataset_name="by_dlt", pipelines_dir="dlt-state"
    )
    pipeline.run(source)


if __name__ == "__main__":
    main()
