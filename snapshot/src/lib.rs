//! The file a login is answered from: its format, its reader and its writer
