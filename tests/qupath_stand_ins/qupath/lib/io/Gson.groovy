package qupath.lib.io

import groovy.json.JsonSlurper

class Gson {
    Map fromJson(String text, Class type) {
        assert type == Map
        converted(new JsonSlurper().parseText(text))
    }

    /** Gson makes every number a double. */
    static converted(value) {
        if (value instanceof Map)
            return value.collectEntries { name, one -> [(name): converted(one)] }
        if (value instanceof List)
            return value.collect { converted(it) }
        return value instanceof Number ? value as double : value
    }
}
