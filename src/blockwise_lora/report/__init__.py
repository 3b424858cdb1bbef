"""What a person looks at: the picture grid, tables, charts and the page that holds them all."""
