"""What `mkdocs` needs to build the site: pages of files outside of docs/, links to them, and tables from the code."""
