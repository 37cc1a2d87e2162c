"""Events as data: decoding of lines, schemas, data files, recent events and the training buffer."""
