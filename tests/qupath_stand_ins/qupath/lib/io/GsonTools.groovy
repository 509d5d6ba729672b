package qupath.lib.io

class GsonTools {
    static Gson getInstance() { new Gson() }
}
