"""Other libraries' classes, computed by hardmine's ops. Each module needs the library that it is named after."""
