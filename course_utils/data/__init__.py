"""What the lessons load: data sets, corpora, pretrained weights, and the cache they are kept in."""
