//! OLMo 2 and FlexOlmo.
