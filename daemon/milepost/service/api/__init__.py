"""The JSON API: a module for each resource, whose declared operations make both the routes and the OpenAPI document."""
